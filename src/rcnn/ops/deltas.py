"""Boxes as offsets from anchors or proposals (Girshick et al. 2014, appendix C), scaled by fixed weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.ops.precision import at_least_float32

MAX_LOG_SCALE = math.log(1000 / 16)  # upper limit of dw and dh, so that an untrained network cannot overflow exp


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y of the centre, width and height, each (...), of boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Deltas (..., 4), dx dy dw dh, that transform `anchors` (..., 4) into `boxes` (..., 4), both xyxy pixels.

    They have no unit: offsets relative to the anchor's sides, and log scales, each multiplied by one of `weights`.
    An anchor without area gives infinities or NaN.
    """
    x, y, width, height = _centres(at_least_float32(boxes))
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(at_least_float32(anchors))
    return torch.stack(
        [
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * torch.log(width / anchor_width),
            weights[3] * torch.log(height / anchor_height),
        ],
        -1,
    )


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: Sequence[float], clamp: float = MAX_LOG_SCALE) -> Tensor:
    """Boxes (..., 4) xyxy pixels: `anchors` (..., 4) transformed by `deltas` (..., 4); the shapes broadcast.

    Log scales are limited to at most `clamp` after the division by their weights; there is no lower limit.
    """
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(at_least_float32(anchors))
    dx, dy, dw, dh = at_least_float32(deltas).unbind(-1)
    x = dx / weights[0] * anchor_width + anchor_x
    y = dy / weights[1] * anchor_height + anchor_y
    half_width = 0.5 * (torch.exp((dw / weights[2]).clamp(max=clamp)) * anchor_width)
    half_height = 0.5 * (torch.exp((dh / weights[3]).clamp(max=clamp)) * anchor_height)
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
