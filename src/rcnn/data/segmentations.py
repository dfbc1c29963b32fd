"""Segmentations of many objects packed into a few arrays, which are cheap to send to worker processes.

Letters: A objects, P points of a polygon.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rcnn.data.checks.tables import Annotation
from rcnn.ops.coco_backend import Rle

Polygons = tuple[np.ndarray, ...]  # the parts of one object, each (2P,) float64: x, y, x, y, ... in pixels of the file
Segmentation = Polygons | Rle | None  # an Rle is compressed: size [height, width] of the image, counts bytes


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Outlines of A objects: each has polygons, run lengths, or no outline."""

    part_starts: np.ndarray  # (A + 1,) int64: the polygons of object a are the parts from part_starts[a] on
    point_starts: np.ndarray  # (parts + 1,) int64: positions of a part in `points`
    points: np.ndarray  # float64: x, y of the points of all polygons
    rle_starts: np.ndarray  # (A + 1,) int64: positions of an object's run lengths in `rle_bytes`
    rle_bytes: np.ndarray  # uint8

    def segmentation(self, index: int, size: tuple[int, int]) -> Segmentation:
        """The outline of the object at `index`, in an image of `size` (height, width)."""
        first, last = self.rle_starts[index : index + 2]
        if last > first:
            return {"size": list(size), "counts": self.rle_bytes[first:last].tobytes()}
        first, last = self.part_starts[index : index + 2]
        if last == first:
            return None
        ends = self.point_starts[first : last + 1].tolist()
        return tuple(self.points[a:b] for a, b in pairwise(ends))

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """Whether each object has an outline, (A,)."""
        return (np.diff(self.part_starts) > 0) | (np.diff(self.rle_starts) > 0)

    @property
    def edges(self) -> npt.NDArray[np.int64]:
        """Number of edges of each object, (A,): exact for polygons, at most two per byte of run lengths."""
        return np.diff(self.point_starts[self.part_starts]) // 2 + 2 * np.diff(self.rle_starts)

    def subset(self, indices: np.ndarray) -> Outlines:
        """The outlines of the objects at `indices` (S,) int64, in that order."""
        parts, part_starts = ranges(self.part_starts, indices)
        points, point_starts = ranges(self.point_starts, parts)
        runs, rle_starts = ranges(self.rle_starts, indices)
        return Outlines(
            part_starts=part_starts,
            point_starts=point_starts,
            points=self.points[points],
            rle_starts=rle_starts,
            rle_bytes=self.rle_bytes[runs],
        )


def ranges(starts: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All elements of the ranges starts[i] to starts[i + 1] - 1, i in `indices` (S,), and the new starts (S + 1,)."""
    lengths = starts[indices + 1] - starts[indices]
    new = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(new[-1]) + np.repeat(starts[indices] - new[:-1], lengths), new


def pack_outlines(annotations: Sequence[Annotation]) -> Outlines:
    """The outlines of A checked annotations."""
    part_ends, point_ends, rle_ends = [0], [0], [0]
    points, rles = array("d"), bytearray()
    for annotation in annotations:
        outline = annotation.get("segmentation", [])
        if isinstance(outline, dict):
            rles += outline["counts"].encode("ascii")
        else:
            for part in outline:
                points.fromlist(part)
                point_ends.append(len(points))
        part_ends.append(len(point_ends) - 1)
        rle_ends.append(len(rles))
    return Outlines(
        part_starts=np.array(part_ends, dtype=np.int64),
        point_starts=np.array(point_ends, dtype=np.int64),
        points=np.frombuffer(points, dtype=np.float64) if points else np.zeros(0),
        rle_starts=np.array(rle_ends, dtype=np.int64),
        rle_bytes=np.frombuffer(bytes(rles), dtype=np.uint8),
    )
