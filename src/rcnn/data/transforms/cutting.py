"""Cuts objects at the border of an image, and removes objects that are too small: the only rule that removes objects.

Letters: N objects of the image, E edges of one object's outline, C crossings of a line.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rcnn.data.transforms.sample import Flags, Sample
from rcnn.ops.boxes import clip_boxes

SMALLEST = 1.0  # pixels; an object with a box that has a shorter side is removed


def cut(sample: Sample, *, before: Tensor | None, recompute: bool = False) -> Sample:
    """A sample with its objects cut at the border of the image; objects that are then too small are removed.

    An object that the border cuts gets the box of its visible outline or bitmap, or its clipped box if it has neither;
    with `recompute`, every object does. Keypoints outside the image become absent. An object, or a crowd, is removed
    if a side of its box is shorter than SMALLEST, or if it had a mask and no pixel of the mask is visible. `before`
    (N, H, W) are the bitmaps before the step that moved the objects: an object whose bitmap was empty has no mask.
    """
    height, width = sample.size
    clipped = _clipped(sample.boxes, sample.size)
    changed = (clipped != sample.boxes).any(1).numpy() | recompute
    outlines = sample.outlines
    empty = np.zeros(len(clipped), dtype=bool)
    if outlines is not None:
        visible = list(outlines)
        for index in np.flatnonzero(changed & np.array([len(edges) > 0 for edges in outlines], dtype=bool)).tolist():
            visible[index] = clip_edges(outlines[index], sample.size)
            empty[index] = not len(visible[index])
            if not empty[index]:
                clipped[index] = torch.from_numpy(bounds(visible[index]))
        outlines = tuple(visible)
    elif sample.bitmaps is not None:
        for index in np.flatnonzero(changed).tolist():
            box = bitmap_bounds(sample.bitmaps[index])
            if box is not None:
                clipped[index] = intersection(clipped[index], box)
            elif before is not None:
                empty[index] = bool(before[index].any())
    keypoints = sample.keypoints
    if keypoints is not None:
        x, y = keypoints[..., 0], keypoints[..., 1]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        keypoints = torch.where(inside[..., None], keypoints, 0)
    crowds = sample.crowds
    if crowds is not None:
        crowds = _clipped(crowds, sample.size)
        crowds = crowds[large_enough(crowds)]
    after = replace(sample, boxes=clipped, outlines=outlines, keypoints=keypoints, crowds=crowds)
    kept = large_enough(clipped) & ~empty
    return after if kept.all() else after.subset(kept)


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) clipped to an image of `size` (height, width)."""
    return clip_boxes(boxes[None], torch.tensor([size]))[0]


def large_enough(boxes: Tensor) -> Flags:
    """Whether both sides of each box (N, 4) are at least SMALLEST long, (N,)."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(1).numpy()


def bounds(edges: np.ndarray) -> np.ndarray:
    """The box (4,) float32 around the edges (E, 5) of an outline; E is at least 1."""
    points = edges[:, :4].reshape(-1, 2)
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def bitmap_bounds(bitmap: Tensor) -> Tensor | None:
    """The box (4,) float32 around the pixels of a bitmap (H, W) bool; None if it is empty."""
    rows, columns = (bitmap.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return None
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


def intersection(one: Tensor, other: Tensor) -> Tensor:
    """The box (4,) that two overlapping boxes (4,) share."""
    return torch.cat([torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])])


def clip_edges(edges: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of an outline, edges (E, 5), inside an image of `size` (height, width); no edges if nothing is inside.

    The result is closed again: by the even-odd rule, each part fills the same pixels of the image as before.
    """
    height, width = size
    for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, width, -1), (1, height, -1)):
        edges = _clip_at_line(edges, axis, float(limit), sign)
    return edges


def _clip_at_line(edges: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """The part of a closed outline where sign * (coordinate - limit) > 0, closed along the line."""
    distance = sign * (edges[:, [axis, axis + 2]] - limit)  # (E, 2) of both ends
    if (distance >= 0).all():
        return edges
    inside = distance > 0  # what only touches the line is not visible: its edge on the line would be in the box
    crossing = inside[:, 0] != inside[:, 1]  # (E,)
    crossed = edges[crossing].copy()  # (C, 5)
    fraction = distance[crossing, 0] / (distance[crossing, 0] - distance[crossing, 1])
    along = crossed[:, 1 - axis] + fraction * (crossed[:, 3 - axis] - crossed[:, 1 - axis])
    row, outer = np.arange(len(crossed)), np.where(inside[crossing, 0], 2, 0)  # column of the end outside
    crossed[row, outer + axis], crossed[row, outer + 1 - axis] = limit, along
    return np.concatenate([edges[inside.all(1)], crossed, _between(along, crossed[:, 4], axis, limit)])


def _between(along: np.ndarray, part: np.ndarray, axis: int, limit: float) -> np.ndarray:
    """The edges that close parts along a line: from the 1st to the 2nd crossing (C,) of a part, 3rd to 4th, ..."""
    order = np.lexsort([along, part])
    start, end = along[order][::2], along[order][1::2]
    closing = np.empty((len(start), 5))
    closing[:, [axis, axis + 2]], closing[:, 4] = limit, part[order][::2]
    closing[:, 1 - axis], closing[:, 3 - axis] = start, end
    return closing
