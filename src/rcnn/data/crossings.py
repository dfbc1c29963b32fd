"""Polygons that cross themselves.

Letters: P polygons, V their points, Q the points of all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rcnn.data.segmentations import Outlines

_ROUNDING = 1e-9  # pixels squared: twice the area of a triangle that counts as flat
_COMPARED = 1 << 16  # pairs of edges compared at a time: they stay in the cache


def crossing_polygons(outlines: Outlines) -> npt.NDArray[np.bool_]:
    """Which polygons (P,) have two edges that cross; edges that only touch do not count."""
    starts, ends = outlines.point_starts[:-1] // 2, outlines.point_starts[1:] // 2  # (P,)
    points, counts = outlines.points.reshape(-1, 2), ends - starts
    found = np.zeros(len(starts), dtype=bool)
    lengths = _padded_lengths(counts)
    for length in np.unique(lengths[counts > 3]).tolist():
        places = np.flatnonzero((lengths == length) & (counts > 3))
        step = max(1, _COMPARED // length)
        for first in range(0, len(places), step):
            chunk = places[first : first + step]
            # shorter polygons repeat their last point: edges of no length cross nothing
            own = np.minimum(np.arange(length), counts[chunk, None] - 1)
            found[chunk[crossing_among(points[starts[chunk, None] + own])]] = True
    return found


def _padded_lengths(counts: np.ndarray) -> np.ndarray:
    """Numbers of points, rounded up so that polygons of similar length are compared together."""
    multiple = np.where(counts <= 64, 8, 2 ** np.ceil(np.log2(np.maximum(counts, 1)) - 2).astype(np.int64))
    return -(-counts // multiple) * multiple


def crossing_among(corners: np.ndarray) -> np.ndarray:
    """Indices of the polygons in `corners` (P, V, 2), in pixels, that have crossing edges."""
    count = corners.shape[1]
    after = np.roll(corners, -1, axis=1)
    low, high = np.minimum(corners, after), np.maximum(corners, after)
    # twice in a row, so that the edges from any edge on are one slice
    left, top, right, bottom = (
        np.tile(side, (1, 2)) for side in (low[..., 0], low[..., 1], high[..., 0], high[..., 1])
    )
    found = [np.zeros(0, dtype=np.int64)]
    for step in range(2, count // 2 + 1):  # every edge with the one `step` edges later
        one, other = slice(0, count), slice(step, step + count)
        meet = left[:, one] <= right[:, other]  # edges with overlapping boxes
        meet &= left[:, other] <= right[:, one]
        meet &= top[:, one] <= bottom[:, other]
        meet &= top[:, other] <= bottom[:, one]
        polygon, i = np.nonzero(meet)
        if len(polygon):
            j = (i + step) % count
            a, b, c, d = corners[polygon, i], after[polygon, i], corners[polygon, j], after[polygon, j]
            crosses = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
            found.append(polygon[crosses])
    return np.unique(np.concatenate(found))


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """On which side of the line from `a` to `b` a point `c` is (all (N, 2)): -1, 0 on the line, 1."""
    side = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return np.where(np.abs(side) > _ROUNDING, np.sign(side), 0)
