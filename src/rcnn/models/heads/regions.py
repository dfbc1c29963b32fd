"""Regions of the second stage: which proposals it trains on, and their features cut out of the maps.

Letters: B images, P proposals, G true objects, R regions, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import PoolerConfig, SamplingConfig
from rcnn.ops.capacity import live_prefix
from rcnn.ops.crop_resize import crop_resize
from rcnn.ops.matching import match
from rcnn.ops.roi_align import assign_levels, roi_align
from rcnn.ops.roi_pool import roi_pool
from rcnn.ops.sampling import random_keys, sample
from rcnn.structures import Proposals, Targets

RANDOM_STREAM = 1  # the box head's draws; the RPN has its own


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Sampled proposals, objects first; row i of every field is the same region."""

    boxes: Tensor  # (B, R, 4) float32 xyxy
    matched: Tensor  # (B, R) int64, the true object it overlaps most
    labels: Tensor  # (B, R) int64: 0..K-1, or K for background
    positive: Tensor  # (B, R) bool, an object
    valid: Tensor  # (B, R) bool, sampled at all
    features: Tensor | None = None  # (B, R, C, h, w), where a later head shares them (C4)
    appended: Tensor | None = None  # (B, R) bool, a true box itself, not a proposal
    later: tuple[Regions, ...] = ()  # those of a cascade's further stages

    def objects(self, most: int) -> Regions:
        """The leading places that may be objects: `most` of them, or fewer where that is known for free."""
        count = min(live_prefix(self.positive), most)
        return Regions(
            boxes=self.boxes[:, :count],
            matched=self.matched[:, :count],
            labels=self.labels[:, :count],
            positive=self.positive[:, :count],
            valid=self.valid[:, :count],
            features=None if self.features is None else self.features[:, :count],
        )


@torch.no_grad()
def sample_regions(
    proposals: Proposals,
    targets: Targets,
    *,
    num_classes: int,
    sampling: SamplingConfig,
    append: bool = True,
    seed: Tensor,
    stream: int = RANDOM_STREAM,
) -> Regions:
    """Proposals and the true boxes themselves (a start while proposals are poor), matched and drawn."""
    boxes, real = proposals.boxes, proposals.valid
    if append:
        boxes = torch.cat([boxes, targets.boxes], 1)  # (B, P + G, 4)
        real = torch.cat([real, targets.valid], 1)
    matched, label = match(
        boxes, targets.boxes, targets.valid, sampling.min_negative_iou, sampling.positive_iou, low_quality=False
    )
    # what match leaves between its two thresholds is background here, and what lies below the first is not used; at 0
    # nothing does, in images without objects neither
    below = -1 if sampling.min_negative_iou > 0 else 0
    label = torch.where(label == 1, 1, torch.where(label == 0, below, 0))
    label = torch.where(real, label, -1)
    keys = random_keys(seed, label.shape, stream)
    index, positive, valid = sample(label, keys, sampling.batch_size, sampling.positive_fraction)  # (B, R)
    matched = matched.gather(1, index)
    return Regions(
        boxes=boxes.gather(1, index[..., None].expand(-1, -1, 4)),
        matched=matched,
        labels=torch.where(positive, targets.labels.gather(1, matched), num_classes),
        positive=positive,
        valid=valid,
        appended=valid & (index >= proposals.boxes.shape[1]),
    )


@torch.no_grad()
def relabel_regions(
    boxes: Tensor, valid: Tensor, targets: Targets, *, num_classes: int, positive_iou: float
) -> Regions:
    """All of the `boxes` (B, R, 4) as regions, matched anew, objects first: nothing is drawn, nothing added."""
    matched, label = match(boxes, targets.boxes, targets.valid, positive_iou, positive_iou, low_quality=False)
    positive = (label == 1) & valid
    order = torch.where(positive, 0, torch.where(valid, 1, 2)).sort(dim=1, stable=True)[1]  # (B, R)
    matched, positive = matched.gather(1, order), positive.gather(1, order)
    return Regions(
        boxes=boxes.gather(1, order[..., None].expand(-1, -1, 4)),
        matched=matched,
        labels=torch.where(positive, targets.labels.gather(1, matched), num_classes),
        positive=positive,
        valid=valid.gather(1, order),
    )


def pool_regions(
    features: dict[str, Tensor],
    strides: dict[str, int],
    boxes: Tensor,
    valid: Tensor,
    config: PoolerConfig,
    level_eps_inside: bool,
    rules: BoxRules = HALF_OPEN,
) -> Tensor:
    """Features (B, R, C, s, s) of regions (B, R, 4), each from the level that fits its size (FPN, equation 1)."""
    numbers = [int(name[1:]) for name in strides]
    if len(numbers) == 1:
        levels = torch.zeros_like(valid, dtype=torch.int64)
    else:
        finest = features[next(iter(strides))]
        # to the nearest level, of regions counted in sides from centre to centre: as much smaller is the canonical size
        side = max(finest.shape[2:]) * next(iter(strides.values()))
        canonical = 224 / 2**0.5 * (side - 1) / side if config.kind == "normalized" else 224
        levels = assign_levels(boxes, numbers[0], numbers[-1], canonical, eps_inside=level_eps_inside)
    maps = [features[name] for name in strides]
    scales = [1.0 / stride for stride in strides.values()]
    boxes = rules.raw(boxes)
    match config.kind:
        case "roi_align":
            return roi_align(maps, boxes, levels, valid, scales, config.size, config.sampling_ratio, config.aligned)
        case "roi_pool":
            return roi_pool(maps, boxes, levels, valid, scales, config.size)[0]
        case _:
            return crop_resize(maps, boxes, levels, valid, scales, config.size, config.kind)
