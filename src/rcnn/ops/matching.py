"""Which true object each box belongs to (Ren et al. 2015, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.boxes import box_ioa, box_iou
from rcnn.ops.capacity import live_prefix

MAX_ELEMENTS = 16_000_000  # of one IoU matrix
MAX_TARGETS = 32  # of one IoU matrix: few enough that a small matrix stays in cache


def match(
    boxes: Tensor,
    targets: Tensor,
    target_valid: Tensor,
    low: float,
    high: float,
    low_quality: bool,
    *,
    usable: Tensor | None = None,
    overruled: bool = False,
) -> tuple[Tensor, Tensor]:
    """The true object that each box overlaps most, and whether that makes it one.

    Memory is that of one IoU matrix between the boxes and a few targets, whatever G is.

    Args:
        boxes: (B, N, 4), or (N, 4) where all images share them; xyxy pixels.
        targets: (B, G, 4) xyxy pixels.
        target_valid: (B, G) bool; the others match nothing. An image without targets is all background.
        low: below this IoU a box is background.
        high: from this IoU on it is an object; between the two it is ignored.
        low_quality: also take the boxes that overlap some target more than any other box does. A target that overlaps
            nothing at all then ties with every box (this is what Detectron2 and torchvision do).
        usable: (B, N) bool, the boxes that take part at all, all of them if None; the others are ignored, and none of
            them is a target's best.
        overruled: background is said last: a target's best box below `low` is background all the same (tensorpack).

    Returns:
        matched: (B, N) int64 index into G of the highest IoU, the first of equals; low quality does not change it.
        label: (B, N) int64: 1 object, 0 background, -1 ignored.
    """
    images, number = targets.shape[0], boxes.shape[-2]
    if boxes.ndim == 2:
        boxes = boxes[None]  # (1, N, 4) broadcasts below
    best = targets.new_full((images, number), -1.0, dtype=torch.float32)
    matched = torch.zeros_like(best, dtype=torch.int64)
    forced = torch.zeros_like(best, dtype=torch.bool)
    count = live_prefix(target_valid)
    chunk = min(MAX_TARGETS, max(1, MAX_ELEMENTS // max(1, images * number)))
    for start in range(0, count if number else 0, chunk):
        end = min(start + chunk, count)
        real = target_valid[:, start:end, None]  # (B, g, 1)
        if usable is not None:
            real = real & usable[:, None]  # (B, g, N)
        iou = torch.where(real, box_iou(targets[:, start:end], boxes), -1.0)  # (B, g, N)
        value, index = iou.max(1)  # (B, N)
        better = value > best
        matched = torch.where(better, index + start, matched)
        best = torch.where(better, value, best)
        if low_quality:
            forced = forced | ((iou == iou.amax(2, keepdim=True)) & real).any(1)
    label = torch.where(best < low, 0, torch.where(best < high, -1, 1))
    if overruled:
        forced = forced & (best >= low)
    label = torch.where(forced, 1, label)
    return matched, label if usable is None else torch.where(usable, label, -1)


def in_crowds(boxes: Tensor, crowds: Tensor, ioa: float) -> Tensor:
    """Which boxes (N, 4) or (B, N, 4) have a larger part than `ioa` in some one of the crowds (B, I, 4), bool (B, N).

    Places of `crowds` that hold none are empty boxes.
    """
    inside = torch.zeros(len(crowds), boxes.shape[-2], dtype=torch.bool, device=boxes.device)
    for crowd in crowds.split(1, 1):  # one at a time: a few, against some hundred thousand anchors
        inside = inside | (box_ioa(boxes, crowd)[..., 0] > ioa)
    return inside
