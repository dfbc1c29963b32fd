"""Outlines of many objects packed into columns, which worker processes receive cheaply.

Letters: A objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.data.checks.tables import Annotation


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Outlines of A objects, as `Objects` keeps them."""

    part_starts: np.ndarray  # (A + 1,) int64 places in point_starts
    point_starts: np.ndarray  # (parts + 1,) int64 places in points
    points: np.ndarray  # float64
    rle_starts: np.ndarray  # (A + 1,) int64 places in rle_bytes
    rle_bytes: np.ndarray  # uint8


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
