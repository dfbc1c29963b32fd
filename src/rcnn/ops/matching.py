"""Matching of boxes with ground-truth objects (Ren et al. 2015, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.boxes import box_ioa, box_iou
from rcnn.ops.capacity import live_prefix

MAX_ELEMENTS = 16_000_000  # of one IoU matrix
MAX_TARGETS = 32  # of one IoU matrix: small enough for the cache


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
    """The ground-truth object with the highest IoU for each box, and the resulting label.

    Memory: one IoU matrix between the boxes and a few targets, independent of G.

    Args:
        boxes: (B, N, 4), or (N, 4) where all images share them; xyxy pixels.
        targets: (B, G, 4) xyxy pixels.
        target_valid: (B, G) bool; invalid targets match nothing. Without targets, all boxes are negative.
        low: boxes with an IoU below this are negative.
        high: boxes with at least this IoU are positive; between the two they are ignored.
        low_quality: the boxes with the highest IoU for some target are positive, too. For a target that no box
            overlaps, that is every box (as in Detectron2 and torchvision).
        usable: (B, N) bool, the boxes that are matched (None: all); the others are ignored, and are never the best box
            of a target.
        overruled: a target's best box is negative if its IoU is below `low` (tensorpack).

    Returns:
        matched: (B, N) int64 index into G of the highest IoU, the first of equals; `low_quality` does not change it.
        label: (B, N) int64: 1 positive, 0 negative, -1 ignored.
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
    """Whether a larger fraction than `ioa` of boxes (N, 4) or (B, N, 4) is inside one crowd: bool (B, N).

    `crowds` (B, I, 4) is padded with empty boxes. All boxes are xyxy pixels.
    """
    inside = torch.zeros(len(crowds), boxes.shape[-2], dtype=torch.bool, device=boxes.device)
    for crowd in crowds.unbind(1):  # one at a time: there are few crowds and up to some 100,000 anchors
        inside = inside | (box_ioa(boxes, crowd[:, None])[..., 0] > ioa)
    return inside
