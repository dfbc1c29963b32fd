"""Non-maximum suppression of fixed capacity, as the opaque op `rcnn::nms`."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from rcnn.ops import kernels


@torch.library.custom_op("rcnn::nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Up to `keep` best boxes of each image after greedy non-maximum suppression.

    Inside a group (a class or a pyramid level), boxes are removed if their IoU with a better one exceeds the threshold.

    Args:
        boxes: (B, N, 4) float xyxy pixels.
        scores: (B, N) float; of equal scores the lower index is the better.
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
    for image in range(boxes.shape[0]):
        best = _nms_image(boxes[image].float(), scores[image].float(), groups[image], valid[image], iou_threshold)[
            :keep
        ]
        index[image, : len(best)] = best
        kept[image, : len(best)] = True
    return index, kept


def _nms_image(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Indices (any number, int64) into N of the boxes that one image keeps, best first."""
    candidates = valid.nonzero()[:, 0]
    group, order = groups[candidates].sort(stable=True)
    candidates = candidates[order]  # sorted by group, then by index
    boxes, group_scores = boxes[candidates], scores[candidates]
    counts: list[int] = torch.unique_consecutive(group, return_counts=True)[1].tolist()
    survivors: list[Tensor] = []
    start = 0
    for count in counts:
        end = start + count
        left = torchvision.ops.nms(boxes[start:end], group_scores[start:end], iou_threshold)
        survivors.append(candidates[start:end][left])
        start = end
    if not survivors:
        return candidates
    left = torch.cat(survivors).sort()[0]  # by index, so that the stable sort gives equal scores to the lower one
    return left[scores[left].sort(descending=True, stable=True)[1]]


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    shape = (boxes.shape[0], keep)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
