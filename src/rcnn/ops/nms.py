"""Non-maximum suppression of fixed capacity, as the opaque op `rcnn::nms`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.boxes import box_iou
from rcnn.ops.opaque import opaque_op
from rcnn.ops.torchvision_operators import load_operators

MANY = 20  # on the CPU, with this many boxes per box to keep, or more, `_best_by_walking` is the faster of the two
BLOCK = 256  # boxes that `_best_by_walking` compares with each other at a time


@opaque_op
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    """The best boxes of each image, up to `keep`, after greedy non-maximum suppression.

    Within a group (a class or a pyramid level), a box is removed if its IoU with a kept box of a higher score exceeds
    the threshold.

    Args:
        boxes: (B, N, 4) float xyxy pixels.
        scores: (B, N) float; of equal scores, the one with the lower index is better.
        groups: (B, N) int64; any values.
        valid: (B, N) bool; invalid boxes are ignored. N is unlimited.
        iou_threshold: in [0, 1].
        keep: capacity D of the result.

    Returns:
        index: (B, D) int64 into N, best first; 0 where not valid.
        valid: (B, D) bool, a prefix of each row.
    """
    if kernels.usable(boxes):
        from rcnn.ops.kernels import nms as kernel

        return kernel.nms(boxes, scores, groups, valid, iou_threshold, keep)
    index = boxes.new_zeros((boxes.shape[0], keep), dtype=torch.int64)
    kept = torch.zeros_like(index, dtype=torch.bool)
    few_are_kept = boxes.device.type == "cpu" and boxes.shape[1] >= MANY * keep
    of_image = _best_by_walking if few_are_kept else _best_by_groups
    for image in range(boxes.shape[0]):
        best = of_image(boxes[image].float(), scores[image].float(), groups[image], valid[image], iou_threshold, keep)
        index[image, : len(best)] = best
        kept[image, : len(best)] = True
    return index, kept


def _best_by_walking(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> Tensor:
    """The indices (up to `keep`, int64) into N of the kept boxes of one image, best first.

    The boxes are processed in the order of their scores, `BLOCK` at a time, until enough are kept: of 80,000 boxes
    (1,000 regions, 80 classes) usually a few hundred.
    """
    candidates = valid.nonzero()[:, 0]
    order = candidates[scores[candidates].sort(descending=True, stable=True)[1]]
    best = order[:0]
    for block in order.split(BLOCK):
        if len(best) >= keep:
            break
        block = block[~_overlaps(boxes, groups, block, best, iou_threshold).any(1)]
        overlaps = _overlaps(boxes, groups, block, block, iou_threshold).numpy()
        left = np.ones(len(block), dtype=bool)
        taken: list[int] = []
        for place in range(len(block)):
            if left[place]:
                taken.append(place)
                left &= ~overlaps[place]
        best = torch.cat([best, block[taken]])
    return best[:keep]


def _overlaps(boxes: Tensor, groups: Tensor, a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether the boxes `a` (n,) and `b` (m,), indices into N, are of one group and overlap too much: bool (n, m)."""
    iou = box_iou(boxes[a], boxes[b]).double()  # the threshold is not rounded to float32
    return (iou > iou_threshold) & (groups[a][:, None] == groups[b])


def _best_by_groups(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> Tensor:
    """The same indices, by torchvision's NMS of all boxes of each group: for accelerators, and if many are kept."""
    load_operators()
    candidates = valid.nonzero()[:, 0]
    group, order = groups[candidates].sort(stable=True)
    candidates = candidates[order]  # sorted by group, then by index
    boxes, group_scores = boxes[candidates], scores[candidates]
    counts: list[int] = torch.unique_consecutive(group, return_counts=True)[1].tolist()
    survivors: list[Tensor] = []
    start = 0
    for count in counts:
        end = start + count
        left = torch.ops.torchvision.nms(boxes[start:end], group_scores[start:end], iou_threshold)
        survivors.append(candidates[start:end][left])
        start = end
    if not survivors:
        return candidates[:keep]
    left = torch.cat(survivors).sort()[0]  # by index, so that the stable sort gives equal scores to the lower one
    return left[scores[left].sort(descending=True, stable=True)[1]][:keep]


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    shape = (boxes.shape[0], keep)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
