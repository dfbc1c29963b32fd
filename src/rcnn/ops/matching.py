"""Matching of boxes with ground-truth objects (Ren et al. 2015, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.boxes import box_ioa, box_iou
from rcnn.ops.capacity import valid_prefix

MAX_ELEMENTS = 16_000_000  # of one IoU matrix
MAX_TARGETS = 32  # of one IoU matrix: small enough for the cache


def match_anchors(
    anchors: Tensor,
    targets: Tensor,
    target_valid: Tensor,
    negative_iou: float,
    positive_iou: float,
    *,
    considered: Tensor | None = None,
    min_best_iou: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The ground-truth object with the highest IoU for each anchor, and the resulting label.

    The best anchors of each object are positive, too, even below `positive_iou`. For an object that no anchor
    overlaps, that is every anchor (as in Detectron2 and torchvision, where this is called low-quality matches).

    Args:
        anchors: (B, N, 4), or (N, 4) where all images share them; xyxy pixels.
        targets: (B, G, 4) xyxy pixels.
        target_valid: (B, G) bool; invalid targets match nothing. Without targets, all anchors are negative.
        negative_iou: anchors with an IoU below this are negative.
        positive_iou: anchors with at least this IoU are positive; between the two they are ignored.
        considered: (B, N) bool, the anchors that are matched (None: all); the others are ignored, and are never the
            best anchor of an object.
        min_best_iou: the best anchor of an object is positive only with at least this IoU (tensorpack).

    Returns:
        matched: (B, N) int64 index into G of the highest IoU, the first of equals.
        label: (B, N) int64: 1 positive, 0 negative, -1 ignored.
    """
    iou, matched, is_best_of_object = _compare(anchors, targets, target_valid, considered, best_of_objects=True)
    label = torch.where(iou < negative_iou, 0, torch.where(iou < positive_iou, -1, 1))
    label = torch.where(is_best_of_object & (iou >= min_best_iou), 1, label)
    return matched, label if considered is None else torch.where(considered, label, -1)


def highest_iou(boxes: Tensor, targets: Tensor, target_valid: Tensor) -> tuple[Tensor, Tensor]:
    """The highest IoU (B, N) float32 of each box with an object, -1 without objects; and that object's index (B, N).

    `boxes` (B, N, 4) and `targets` (B, G, 4) are xyxy pixels; `target_valid` is bool (B, G). The index is the first of
    equals.
    """
    return _compare(boxes, targets, target_valid, None, best_of_objects=False)[:2]


def _compare(
    boxes: Tensor, targets: Tensor, target_valid: Tensor, considered: Tensor | None, *, best_of_objects: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest IoU (B, N) of each box, -1 without objects; the object's index; and whether it is an object's best.

    The last is False without `best_of_objects`. Memory: one IoU matrix between the boxes and a few targets,
    independent of G.
    """
    images, num_boxes = targets.shape[0], boxes.shape[-2]
    if boxes.ndim == 2:
        boxes = boxes[None]  # (1, N, 4) broadcasts below
    highest = targets.new_full((images, num_boxes), -1.0, dtype=torch.float32)
    matched = torch.zeros_like(highest, dtype=torch.int64)
    is_best_of_object = torch.zeros_like(highest, dtype=torch.bool)
    count = valid_prefix(target_valid)
    chunk = min(MAX_TARGETS, max(1, MAX_ELEMENTS // max(1, images * num_boxes)))
    for start in range(0, count if num_boxes else 0, chunk):
        end = min(start + chunk, count)
        valid = target_valid[:, start:end, None]  # (B, g, 1)
        if considered is not None:
            valid = valid & considered[:, None]  # (B, g, N)
        iou = torch.where(valid, box_iou(targets[:, start:end], boxes), -1.0)  # (B, g, N)
        value, index = iou.max(1)  # (B, N)
        better = value > highest
        matched = torch.where(better, index + start, matched)
        highest = torch.where(better, value, highest)
        if best_of_objects:
            is_best_of_object = is_best_of_object | ((iou == iou.amax(2, keepdim=True)) & valid).any(1)
    return highest, matched, is_best_of_object


def in_crowds(boxes: Tensor, crowds: Tensor, ioa: float) -> Tensor:
    """Whether a larger fraction than `ioa` of boxes (N, 4) or (B, N, 4) is inside one crowd: bool (B, N).

    `crowds` (B, I, 4) is padded with empty boxes. All boxes are xyxy pixels.
    """
    inside = torch.zeros(len(crowds), boxes.shape[-2], dtype=torch.bool, device=boxes.device)
    for crowd in crowds.unbind(1):  # one at a time: there are few crowds and up to some 100,000 anchors
        inside = inside | (box_ioa(boxes, crowd[:, None])[..., 0] > ioa)
    return inside
