"""Soft non-maximum suppression of fixed capacity, as the opaque op `rcnn::soft_nms`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.boxes import box_iou
from rcnn.ops.opaque import opaque_op


@opaque_op
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `keep` best boxes of each image after soft suppression (Bodla et al. 2017, figure 2).

    Repeatedly, inside each group: select the best remaining box, and multiply the scores of the others that remain by
    1 - IoU if their IoU with it exceeds `iou_threshold` (linear), or by exp(-IoU^2 / sigma) (Gaussian).

    Args:
        boxes: (B, N, 4) float xyxy pixels.
        scores: (B, N) float; of equal scores, the one with the lower index is better.
        groups: (B, N) int64; any values.
        valid: (B, N) bool; invalid boxes are ignored. N is unlimited.
        iou_threshold: of the linear form, in [0, 1].
        sigma: of the Gaussian form, above 0; 0 selects the linear form.
        min_score: boxes with a lower score, at the start or after reduction, are removed.
        keep: capacity D of the result.

    Returns:
        index: (B, D) int64 into N, best first; 0 where not valid.
        scores: (B, D) float32, the reduced scores; 0 where not valid.
        valid: (B, D) bool, a prefix of each row.
    """
    index = boxes.new_zeros((boxes.shape[0], keep), dtype=torch.int64)
    reduced = torch.zeros_like(index, dtype=torch.float32)
    kept = torch.zeros_like(index, dtype=torch.bool)
    for image in range(boxes.shape[0]):
        candidates = valid[image].nonzero()[:, 0]
        left, order = _soft_image(
            boxes[image, candidates].float(),
            scores[image, candidates].float(),
            groups[image, candidates],
            (iou_threshold, sigma, min_score),
        )
        order = order[:keep]
        index[image, : len(order)] = candidates[order]
        reduced[image, : len(order)] = left[order]
        kept[image, : len(order)] = True
    return index, reduced, kept


def _soft_image(
    boxes: Tensor, scores: Tensor, groups: Tensor, settings: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Final scores (N,) of one image's boxes (N, 4), and the indices (int64) of the kept boxes, best first.

    All groups are processed in parallel, one per row; the number of steps is the size of the largest group.
    """
    iou_threshold, sigma, min_score = settings
    number = len(boxes)
    if number == 0:
        return scores, groups
    group, order = groups.sort(stable=True)  # within a group in order of index
    _, row, counts = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    column = torch.arange(number, device=boxes.device) - F.pad(counts.cumsum(0), (1, 0))[row]
    rows, most = len(counts), int(counts.max())
    table = boxes.new_zeros(rows, most, 4)
    table[row, column] = boxes[order]
    left = boxes.new_full((rows, most), -1.0)  # scores of the remaining boxes; -1: selected, removed, or padding
    left[row, column] = scores[order]
    final = torch.full_like(left, -1.0)
    every = torch.arange(rows, device=boxes.device)
    for _ in range(most):
        left = torch.where(left < min_score, -1.0, left)
        score, best = left.max(1)  # the first of equals
        final[every, best] = torch.where(score >= 0, score, final[every, best])
        left[every, best] = -1.0
        iou = box_iou(table[every, best][:, None], table)[:, 0]  # (rows, most)
        factor = torch.exp(-(iou**2) / sigma) if sigma > 0 else torch.where(iou > iou_threshold, 1 - iou, 1.0)
        left = torch.where((left >= 0) & (score >= 0)[:, None], left * factor, left)
    result = torch.empty_like(scores)
    result[order] = final[row, column]
    alive = (result >= 0).nonzero()[:, 0]
    return result, alive[result[alive].sort(descending=True, stable=True)[1]]


@soft_nms.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (boxes.shape[0], keep)
    return (
        boxes.new_empty(shape, dtype=torch.int64),
        boxes.new_empty(shape, dtype=torch.float32),
        boxes.new_empty(shape, dtype=torch.bool),
    )
