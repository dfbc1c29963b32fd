"""FCIS with the rules of the two Chainer ports; `LegacyFCISConfig` says which port has which rule."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from rcnn.models.config.legacy import LegacyFCISConfig
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.regions import Regions
from rcnn.ops.mask_voting import vote_masks
from rcnn.ops.processes import loss_normalizer
from rcnn.structures import ImageBatch, Targets


class LegacyFCISHead(FCISHead):
    """FCIS's second stage with the rules of `config.legacy`."""

    @property
    def legacy(self) -> LegacyFCISConfig:
        """The settings that choose the rules."""
        return self.config.legacy

    @override
    def mask_targets(self, bitmaps: Tensor, regions: Regions, images: ImageBatch, targets: Targets) -> Tensor:
        """Ground-truth masks (B, R, s, s); without `mask_within_box`, also the part of an object outside its box."""
        return self.crop_masks(bitmaps, regions, images, targets.boxes if self.legacy.mask_within_box else None)

    @override
    def mean_mask_loss(self, losses: Tensor, has_mask: Tensor, kept: Tensor) -> Tensor:
        """The mask loss (); with `mask_loss="pixels"`, the mean over the regions with a mask, without the factor 10."""
        if self.legacy.mask_loss == "regions":
            return super().mean_mask_loss(losses, has_mask, kept)
        return (losses * kept).sum() / loss_normalizer((has_mask & kept).sum(dtype=losses.dtype))

    @override
    def is_candidate(self, boxes: Tensor) -> Tensor:
        """Which boxes (B, N, 4) are candidates: with `drop="after"`, all of them."""
        if self.legacy.drop == "before":
            return super().is_candidate(boxes)
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)

    @override
    def is_detection(self, boxes: Tensor) -> Tensor:
        """Which boxes (B, D, 4) are kept: with `drop="after"`, those with sides longer than `min_size` file pixels."""
        if self.legacy.drop == "before":
            return super().is_detection(boxes)
        return ((boxes[..., 2:] - boxes[..., :2]) > self.config.min_size).all(-1)

    @override
    def vote(self, boxes: Tensor, masks: Tensor, weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the base class; `mask_inclusive` and `clip_votes` choose the threshold rule and the clipping."""
        threshold, inclusive = self.config.mask_threshold, self.legacy.mask_inclusive
        boxes, masks, found = vote_masks(boxes, masks, weights, sizes, threshold, inclusive)
        return boxes, masks.clamp(0, 1) if self.legacy.clip_votes else masks, found

    @property
    @override
    def rounds_regions(self) -> bool:
        """Whether region borders are rounded to whole pixels before pooling: the setting `rounded_regions`."""
        return self.legacy.rounded_regions
