"""Ground-truth masks in the frames of regions, cropped from bitmaps by the rules of FCIS and of older frameworks.

`rcnn.ops.masks.crop_bitmaps` has the rules of Detectron2 and torchvision. Letters: B images, G ground-truth objects,
R regions, m the side of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rcnn.ops.boxes import gather_boxes
from rcnn.ops.opencv import fixed_point

Cut = Literal["sampled", "resized", "truncated", "nearest"]


class _Line(NamedTuple):
    """One axis of the cells of R regions, (B, R, m) each: the two pixels that a cell interpolates."""

    first: Tensor  # int64
    second: Tensor  # int64
    part: Tensor  # float32, weight of the second
    inside: Tensor  # bool, whether the centre of the cell is within the image


def cut_bitmaps(
    bitmaps: Tensor,
    matched: Tensor,
    boxes: Tensor,
    valid: Tensor,
    size: int,
    kind: Cut,
    sizes: Tensor,
    *,
    within: Tensor | None = None,
    least: float | None = None,
) -> Tensor:
    """Ground-truth masks (B, R, size, size) float32 of regions.

    sampled: one bilinear sample at each cell's centre, not binarized; zero beyond the centres of the image's outermost
    pixels (tensorpack).
    resized: region borders are rounded to whole pixels, the crop is resized as by OpenCV (bilinear), and values above
    0.5 are set (chainer-mask-rcnn), or values of at least `least` (FCIS, also its plain head).
    truncated: borders are rounded down, the crop is resized as uint8, and values of 1 are set (DeNA).
    nearest: borders are rounded down, the last pixel is included, and the crop is resized as by Pillow (nearest)
    (mask-faster-rcnn).

    Args:
        bitmaps: (B, G, H, W) bool, the objects at network-input size.
        matched: (B, R) int64, index of the object matched to each region.
        boxes: (B, R, 4) float xyxy pixels.
        valid: (B, R) bool; invalid rows give zeros.
        size: side of the result.
        kind: one of the rules above.
        sizes: (B, 2) int64, (height, width) of each image without its padding.
        within: (B, G, 4) xyxy pixels; only the part of an object inside this box, rounded, is used. None: no limit.
        least: threshold of resized masks, inclusive (FCIS); None: above 0.5.
    """
    unit = (torch.arange(4, device=boxes.device) // 2).to(boxes.dtype)  # 0 0 1 1, made on the device
    boxes = torch.where(valid[..., None], boxes, unit)
    y = _line(boxes[..., 1], boxes[..., 3], sizes[:, :1], size, kind)
    x = _line(boxes[..., 0], boxes[..., 2], sizes[:, 1:], size, kind)
    bounds = None if within is None else gather_boxes(within, matched).round()
    pixels = partial(_pixels, bitmaps, matched, bounds)
    if kind == "nearest":
        masks = pixels(y.first, x.first).float()
    elif kind == "truncated":
        masks = _blend_integers(pixels, y, x)
    elif kind == "sampled":
        masks = _blend(pixels, y, x) * (y.inside[..., :, None] & x.inside[..., None, :])
    else:
        masks = _blend(pixels, y, x)
        masks = (masks > 0.5 if least is None else masks >= least).float()
    return masks * valid[..., None, None]


def _pixels(bitmaps: Tensor, matched: Tensor, bounds: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels (B, R, m, m) bool of the matched objects in `rows` and `columns` (B, R, m); none outside `bounds`."""
    rows, columns = rows[..., :, None], columns[..., None, :]
    image = torch.arange(len(bitmaps), device=matched.device)[:, None, None, None]
    pixels = bitmaps[image, matched[..., None, None], rows, columns]
    if bounds is None:
        return pixels
    x1, y1, x2, y2 = bounds[..., None, None].unbind(2)  # (B, R, 1, 1) each
    return pixels & (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)


def _blend(pixels: Callable[[Tensor, Tensor], Tensor], y: _Line, x: _Line) -> Tensor:
    """The bilinear values (B, R, m, m) of the cells, in 0..1."""
    right, below = x.part[..., None, :], y.part[..., :, None]
    upper = pixels(y.first, x.first) * (1 - right) + pixels(y.first, x.second) * right
    lower = pixels(y.second, x.first) * (1 - right) + pixels(y.second, x.second) * right
    return upper * (1 - below) + lower * below


def _blend_integers(pixels: Callable[[Tensor, Tensor], Tensor], y: _Line, x: _Line) -> Tensor:
    """The values (B, R, m, m), 0 or 1, in OpenCV's integer arithmetic for uint8 (rcnn.ops.opencv)."""
    left, right = (fixed_point(part)[..., None, :] for part in (1 - x.part, x.part))
    above, below = (fixed_point(part)[..., :, None] for part in (1 - y.part, y.part))
    upper = (pixels(y.first, x.first).int() * left + pixels(y.first, x.second).int() * right) >> 4
    lower = (pixels(y.second, x.first).int() * left + pixels(y.second, x.second).int() * right) >> 4
    return ((((upper * above) >> 16) + ((lower * below) >> 16) + 2) >> 2).float()


def _line(low: Tensor, high: Tensor, limit: Tensor, size: int, kind: Cut) -> _Line:
    """The cells along one axis; `low` and `high` (B, R) are the region's ends, `limit` (B, 1) the image's side."""
    if kind == "sampled":
        return _sampled_line(low, high, limit, size)
    start, end = (low.round(), high.round()) if kind == "resized" else (low.trunc(), high.trunc())
    start = torch.minimum(start.clamp(min=0), limit - 1).long()
    end = end.long() + 1 if kind == "nearest" else end.long()
    end = torch.maximum(torch.minimum(end, limit), start + 1)
    step = (end - start).double()[..., None] / size
    first, last = start[..., None], end[..., None] - 1
    if kind == "nearest":  # summed step by step as in Pillow, because rounding decides between two pixels
        steps = torch.cat([step * 0.5, step.expand(*step.shape[:-1], size - 1)], -1)
        position = (first + steps.cumsum(-1).long()).clamp(max=last)
        return _Line(
            position,
            position,
            torch.zeros_like(position, dtype=torch.float32),
            torch.ones_like(position, dtype=torch.bool),
        )
    position = (step * _centres(size, low) - 0.5).float()
    before = position.floor()
    pixel = before.long() + first
    inside = torch.ones_like(pixel, dtype=torch.bool)
    return _Line(pixel.clamp(first, last), (pixel + 1).clamp(first, last), position - before, inside)


def _sampled_line(low: Tensor, high: Tensor, limit: Tensor, size: int) -> _Line:
    """Like `_line`, but the ends are not rounded."""
    last = limit[..., None] - 1
    position = low[..., None] + ((high - low) / size)[..., None] * _centres(size, low).float() - 0.5
    before = position.floor()
    pixel, first = before.long(), torch.zeros_like(last)
    inside = (position >= 0) & (position <= last)
    return _Line(pixel.clamp(first, last), (pixel + 1).clamp(first, last), position - before, inside)


def _centres(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device, dtype=torch.float64) + 0.5
