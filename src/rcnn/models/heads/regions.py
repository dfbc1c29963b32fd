"""Regions: the proposals that the second stage is trained on.

Letters: B images, P proposals, G ground-truth boxes, R regions, E channels and t side of the maps of the box trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.models.config import RegionSamplingConfig
from rcnn.ops.boxes import gather_boxes
from rcnn.ops.capacity import valid_prefix
from rcnn.ops.matching import highest_iou
from rcnn.ops.sampling import random_keys, sample
from rcnn.structures import Proposals, Targets

RANDOM_STREAM = 1  # of the random samples of regions; the RPN uses another stream


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions that a head is trained on, positives first; row i of every field is the same region.

    `sample_regions` samples them from the proposals and the ground truth; `relabel_regions` takes all proposals. Rows
    that are not valid have an arbitrary box and match, and the background label K.
    """

    boxes: Tensor  # (B, R, 4) float32 xyxy
    matched: Tensor  # (B, R) int64, the ground-truth box with the highest IoU
    labels: Tensor  # (B, R) int64: 0..K-1, or K for background
    positive: Tensor  # (B, R) bool
    valid: Tensor  # (B, R) bool
    max_positives: int  # upper limit of positive regions per image
    # (B, R, E, t, t), the output of the box trunk if it outputs maps; with C4, the mask head shares it
    maps: Tensor | None = None
    appended: Tensor | None = None  # (B, R) bool: the region is an appended ground-truth box, not a proposal
    later: tuple[Regions, ...] = ()  # the regions of a cascade's later stages

    def positives(self) -> Regions:
        """The leading rows, which contain all positives; without `appended` and `later`.

        These are `max_positives` rows, or fewer in eager mode on the CPU, where counting the positives is free. One row
        remains without positives, so that no layer gets an empty batch.
        """
        count = min(valid_prefix(self.positive), max(1, self.max_positives))
        return Regions(
            boxes=self.boxes[:, :count],
            matched=self.matched[:, :count],
            labels=self.labels[:, :count],
            positive=self.positive[:, :count],
            valid=self.valid[:, :count],
            max_positives=count,
            maps=None if self.maps is None else self.maps[:, :count],
        )


@torch.no_grad()
def sample_regions(
    proposals: Proposals,
    targets: Targets,
    *,
    num_classes: int,
    sampling: RegionSamplingConfig,
    append: bool = True,
    seed: Tensor,
    stream: int = RANDOM_STREAM,
) -> Regions:
    """A random sample of the proposals, matched with the ground truth (Girshick 2015, section 2.3).

    With `append`, ground-truth boxes are added to the proposals first; they are useful early in training, when few
    proposals are positive. `seed` and `stream` select the sample (see `random_keys`). Boxes are xyxy pixels of the
    network input.
    """
    boxes, valid = proposals.boxes, proposals.valid
    if append:
        boxes = torch.cat([boxes, targets.boxes], 1)  # (B, P + G, 4)
        valid = torch.cat([valid, targets.valid], 1)
    iou, matched = highest_iou(boxes, targets.boxes, targets.valid)
    is_positive = valid & (iou >= sampling.positive_iou)
    is_negative = valid & ~is_positive & (iou.clamp(min=0) >= sampling.min_negative_iou)  # IoU -1: no objects
    label = torch.where(is_positive, 1, torch.where(is_negative, 0, -1))  # the rest is ignored
    keys = random_keys(seed, label.shape, stream)
    index, positive, sampled = sample(label, keys, sampling.batch_size, sampling.max_positives)  # (B, R)
    matched = matched.gather(1, index)
    return Regions(
        boxes=gather_boxes(boxes, index),
        matched=matched,
        labels=torch.where(positive, targets.labels.gather(1, matched), num_classes),
        positive=positive,
        valid=sampled,
        max_positives=sampling.max_positives,
        appended=sampled & (index >= proposals.boxes.shape[1]),
    )


@torch.no_grad()
def relabel_regions(proposals: Proposals, targets: Targets, *, num_classes: int, positive_iou: float) -> Regions:
    """All proposals (B, R, 4) as regions, matched again, positives first; nothing is sampled or appended."""
    boxes, valid = proposals.boxes, proposals.valid
    iou, matched = highest_iou(boxes, targets.boxes, targets.valid)
    positive = valid & (iou >= positive_iou)
    order = torch.where(positive, 0, torch.where(valid, 1, 2)).sort(dim=1, stable=True)[1]  # (B, R)
    matched, positive = matched.gather(1, order), positive.gather(1, order)
    return Regions(
        boxes=gather_boxes(boxes, order),
        matched=matched,
        labels=torch.where(positive, targets.labels.gather(1, matched), num_classes),
        positive=positive,
        valid=valid.gather(1, order),
        max_positives=boxes.shape[1],
    )
