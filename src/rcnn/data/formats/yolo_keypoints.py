"""YOLO's pose labels without a `kpt_shape` in data.yaml: a box, and then the keypoints of the object.

Such a line has 5 + 2k or 5 + 3k numbers, like some polygons, so the lines of many objects are compared.

Letters: L lines, K keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.data.checks.numbers import as_number
from rcnn.data.crossings import crossing_among

BOX = 5  # numbers of a line with a box: class, centre x, centre y, width, height
BOX_LINES = (BOX, BOX + 1)  # numbers of a line with a box alone, and with a confidence
MIN_POINTS = 3  # keypoints (x, y) at least: a line of two may be a quadrangle
MARGIN = 0.25  # fraction of its box that a keypoint may be outside it
MOST = 0.95  # fraction of the keypoints that are in their boxes
CROSSING = 0.25  # fraction of the lines that cross themselves; annotators rarely draw such polygons
MIN_CROSSING = 2  # such lines at least: one may be a mistake of an annotator
MOST_LINES = 1000  # that are compared
PIXELS = 1000.0  # size of an image


def keypoint_shape(lines: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """`kpt_shape` of the lines of many objects: number of keypoints, and of numbers for each; None for polygons.

    All lines without those of boxes must have the same number of numbers, which polygons rarely have. Nearly all
    keypoints must be in their boxes; visibilities are 0, 1 or 2. Without visibilities, many of the lines, at least
    MIN_CROSSING, must cross themselves if they are read as polygons. Only the first MOST_LINES are compared.
    """
    longer = [line for line in lines if len(line) not in BOX_LINES]
    counts = {len(line) for line in longer}
    if len(counts) != 1 or min(counts) < BOX:
        return None
    values = np.array([[as_number(word) for word in line] for line in longer[:MOST_LINES]])  # (L, count)
    if not np.isfinite(values).all():
        return None
    boxes, rest = values[:, 1:BOX], values[:, BOX:]
    if rest.shape[1] % 3 == 0:
        points = rest.reshape(len(rest), -1, 3)  # (L, K, 3)
        known = points[..., 2] > 0
        if np.isin(points[..., 2], (0, 1, 2)).all() and known.any() and _inside(points[..., :2], known, boxes):
            return points.shape[1], 3
    if rest.shape[1] % 2 == 0 and rest.shape[1] >= 2 * MIN_POINTS:
        points = rest.reshape(len(rest), -1, 2)  # (L, K, 2)
        known = np.asarray(points.any(axis=2))  # 0, 0: not labelled
        if known.any() and _inside(points, known, boxes):
            crossing = crossing_among(PIXELS * values[:, 1:].reshape(len(values), -1, 2))
            if len(crossing) >= max(MIN_CROSSING, CROSSING * len(values)):
                return points.shape[1], 2
    return None


def _inside(points: np.ndarray, known: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether most `known` (L, K) points (L, K, 2) are in their boxes (L, 4: centre, width and height)."""
    centre, size = boxes[:, None, :2], boxes[:, None, 2:]
    inside = np.asarray((abs(points - centre) <= size * (0.5 + MARGIN)).all(axis=2))  # (L, K)
    return bool((size > 0).all() and inside[known].mean() >= MOST)
