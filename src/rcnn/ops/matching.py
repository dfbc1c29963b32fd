"""Which true object each box belongs to (Ren et al. 2015, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.boxes import box_iou
from rcnn.ops.capacity import live_prefix

MAX_ELEMENTS = 16_000_000  # of one IoU matrix
MAX_TARGETS = 32  # of one IoU matrix: few enough that a small matrix stays in cache


def match(
    boxes: Tensor, targets: Tensor, target_valid: Tensor, low: float, high: float, low_quality: bool
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
        iou = torch.where(real, box_iou(targets[:, start:end], boxes), -1.0)  # (B, g, N)
        value, index = iou.max(1)  # (B, N)
        better = value > best
        matched = torch.where(better, index + start, matched)
        best = torch.where(better, value, best)
        if low_quality:
            forced = forced | ((iou == iou.amax(2, keepdim=True)) & real).any(1)
    label = torch.where(best < low, 0, torch.where(best < high, -1, 1))
    return matched, torch.where(forced, 1, label)
