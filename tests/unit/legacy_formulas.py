"""Inclusive boxes as in old systems: one box at a time, with the last pixel included and `+ 1` everywhere.

Boxes are x1, y1, x2, y2 of the first and the last pixel.
"""

from __future__ import annotations

import math

import numpy as np

Box = np.ndarray  # (4,)


def encode(box: Box, truth: Box) -> np.ndarray:
    """Offsets from `box` to `truth` (Detectron, MXNet's FCIS, mask-faster-rcnn), unweighted."""
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + 0.5 * width, box[1] + 0.5 * height
    true_width, true_height = truth[2] - truth[0] + 1, truth[3] - truth[1] + 1
    true_x, true_y = truth[0] + 0.5 * true_width, truth[1] + 0.5 * true_height
    return np.array(
        [(true_x - x) / width, (true_y - y) / height, math.log(true_width / width), math.log(true_height / height)]
    )


def decode_detectron(box: Box, deltas: np.ndarray, most: float = math.log(1000 / 16)) -> Box:
    """Detectron: the pixel is subtracted from the far ends."""
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + 0.5 * width + deltas[0] * width, box[1] + 0.5 * height + deltas[1] * height
    width, height = math.exp(min(deltas[2], most)) * width, math.exp(min(deltas[3], most)) * height
    return np.array([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width - 1, y + 0.5 * height - 1])


def decode_fcis(box: Box, deltas: np.ndarray) -> Box:
    """MXNet's FCIS: centres of pixels, half widths less half a pixel."""
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + 0.5 * (width - 1) + deltas[0] * width, box[1] + 0.5 * (height - 1) + deltas[1] * height
    width, height = math.exp(deltas[2]) * width, math.exp(deltas[3]) * height
    return np.array([x - 0.5 * (width - 1), y - 0.5 * (height - 1), x + 0.5 * (width - 1), y + 0.5 * (height - 1)])


def decode_loose(box: Box, deltas: np.ndarray) -> Box:
    """mask-faster-rcnn: as Detectron, but nothing is subtracted."""
    return decode_detectron(box, deltas, most=math.inf) + np.array([0, 0, 1, 1])


def clip(box: Box, height: float, width: float) -> Box:
    """Clipped to the pixels of the image."""
    limit = np.array([width - 1, height - 1, width - 1, height - 1])
    return np.maximum(np.minimum(box, limit), 0)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union in pixels, both ends included."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy NMS: the kept indices, best first."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        if all(overlap(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def pyramid_level(box: Box) -> int:
    """Detectron's FPN level of a box, 2 to 5."""
    side = math.sqrt((box[2] - box[0] + 1) * (box[3] - box[1] + 1))
    return min(5, max(2, math.floor(4 + math.log2(side / 224 + 1e-6))))


def half_open(boxes: np.ndarray) -> np.ndarray:
    """The same boxes (..., 4) as our tensors hold them."""
    return boxes + np.array([0, 0, 1, 1])
