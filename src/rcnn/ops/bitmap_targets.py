"""Ground-truth masks in the frames of regions, cropped from bitmaps by the rules of older frameworks.

`rcnn.ops.masks.crop_bitmaps` has the rules of Detectron2 and torchvision. Letters: B images, G ground-truth objects,
R regions, m the side of the result.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rcnn.ops.boxes import gather_boxes
from rcnn.ops.opencv import ONE

Cut = Literal["sampled", "resized", "truncated", "nearest"]


def cut_bitmaps(
    bitmaps: Tensor,
    matched: Tensor,
    boxes: Tensor,
    valid: Tensor,
    size: int,
    kind: Cut,
    sizes: Tensor | None = None,
    *,
    within: Tensor | None = None,
    least: float | None = None,
) -> Tensor:
    """Ground-truth masks (B, R, size, size) float32 of regions.

    sampled: one bilinear sample at each cell's centre, not binarized, zero beyond the centres of the image's outermost
    pixels (tensorpack).
    resized: region borders rounded to whole pixels, the crop resized as by OpenCV's bilinear, set above 0.5
    (chainer-mask-rcnn).
    truncated: borders rounded down, resized as uint8, set where that is 1 (DeNA).
    nearest: borders rounded down, the last pixel included, resized by Pillow's nearest (mask-faster-rcnn).

    Args:
        bitmaps: (B, G, H, W) bool, the objects at network-input size.
        matched: (B, R) int64, index of the object matched to each region.
        boxes: (B, R, 4) float xyxy pixels.
        valid: (B, R) bool; invalid rows give zeros.
        size: side of the result.
        kind: which of the above.
        sizes: (B, 2) int64, (height, width) of each image without its padding; None: H and W.
        within: (B, G, 4) xyxy pixels; only the part of an object inside this box, rounded, is used. None: all of it.
        least: threshold of resized masks, inclusive (FCIS); None: above 0.5.
    """
    if sizes is None:
        sizes = torch.tensor(bitmaps.shape[2:], device=boxes.device).expand(len(bitmaps), 2)
    boxes = torch.where(valid[..., None], boxes, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]))
    y = _line(boxes[..., 1], boxes[..., 3], sizes[:, :1], size, kind)  # rows: (B, R, m) each
    x = _line(boxes[..., 0], boxes[..., 2], sizes[:, 1:], size, kind)
    image = torch.arange(len(bitmaps), device=boxes.device)[:, None, None, None]
    owner = matched[..., None, None]

    own = None if within is None else gather_boxes(within, matched).round()[..., None, None]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        rows, columns = rows[..., :, None], columns[..., None, :]
        drawn = bitmaps[image, owner, rows, columns]  # (B, R, m, m) bool
        if own is None:
            return drawn
        x1, y1, x2, y2 = own.unbind(2)  # (B, R, 1, 1) each
        return drawn & (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)

    if kind == "nearest":
        values = at(y[0], x[0]).float()
    elif kind == "truncated":  # in OpenCV's integer arithmetic, as in rcnn.ops.opencv
        x1, y1 = _fixed(x[2])[..., None, :], _fixed(y[2])[..., :, None]
        x0, y0 = _fixed(1 - x[2])[..., None, :], _fixed(1 - y[2])[..., :, None]
        upper = (at(y[0], x[0]).int() * x0 + at(y[0], x[1]).int() * x1) >> 4
        lower = (at(y[1], x[0]).int() * x0 + at(y[1], x[1]).int() * x1) >> 4
        values = ((((upper * y0) >> 16) + ((lower * y1) >> 16) + 2) >> 2).float()
    else:
        right, below = x[2][..., None, :], y[2][..., :, None]
        upper = at(y[0], x[0]) * (1 - right) + at(y[0], x[1]) * right
        lower = at(y[1], x[0]) * (1 - right) + at(y[1], x[1]) * right
        values = upper * (1 - below) + lower * below
        inside = y[3][..., :, None] & x[3][..., None, :]
        cut = values > 0.5 if least is None else values >= least
        values = cut.float() if kind == "resized" else values * inside
    return values * valid[..., None, None]


def _line(low: Tensor, high: Tensor, limit: Tensor, size: int, kind: Cut) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: the two pixels that each of `size` cells interpolates, the weight of the second, whether inside.

    (B, R, size) each; `low` and `high` (B, R) are the region's ends, `limit` (B, 1) the image's side.
    """
    cells = torch.arange(size, device=low.device, dtype=torch.float64) + 0.5
    if kind == "sampled":
        place = low[..., None] + ((high - low) / size)[..., None] * cells.float() - 0.5
        inside = (place >= 0) & (place <= limit[..., None] - 1)
        first, last = torch.zeros_like(limit[..., None]), limit[..., None] - 1
    else:
        start, end = (low.round(), high.round()) if kind == "resized" else (low.trunc(), high.trunc())
        start = torch.minimum(start.clamp(min=0), limit - 1).long()
        end = end.long() + 1 if kind == "nearest" else end.long()
        end = torch.maximum(torch.minimum(end, limit), start + 1)
        step = (end - start).double()[..., None] / size
        inside = torch.ones_like(step, dtype=torch.bool).expand(*step.shape[:-1], size)
        first, last = start[..., None], end[..., None] - 1
        if kind == "nearest":  # summed step by step as in Pillow, because rounding decides between two pixels
            steps = torch.cat([step * 0.5, step.expand(*step.shape[:-1], size - 1)], -1)
            here = (first + steps.cumsum(-1).long()).clamp(max=last)
            return here, here, torch.zeros_like(here, dtype=torch.float32), inside
        place = (step * cells - 0.5).float()
    before = place.floor()
    part = place - before
    here = before.long() + (0 if kind == "sampled" else first)
    return torch.clamp(here, first, last), torch.clamp(here + 1, first, last), part, inside


def _fixed(part: Tensor) -> Tensor:
    return (part * ONE).round().int()
