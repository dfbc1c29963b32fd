"""FCIS with the rules of the two Chainer ports; `LegacyFCISConfig` says which port has which rule."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from rcnn.models.config.legacy import LegacyFCISConfig
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.regions import Regions
from rcnn.ops.mask_voting import vote_masks
from rcnn.ops.processes import mean_count
from rcnn.structures import ImageBatch, Targets


class LegacyFCISHead(FCISHead):
    """FCIS's second stage with the rules of `config.legacy`."""

    @property
    def legacy(self) -> LegacyFCISConfig:
        """The rules."""
        return self.config.legacy

    @override
    def mask_targets(self, bitmaps: Tensor, regions: Regions, images: ImageBatch, targets: Targets) -> Tensor:
        """Also the part of an object outside its own box, without `mask_within_box`."""
        return self.crop_masks(bitmaps, regions, images, targets.boxes if self.legacy.mask_within_box else None)

    @override
    def mask_loss(self, masks: Tensor, has_mask: Tensor, kept: Tensor) -> Tensor:
        """Without the factor of ten: the mean over the regions that have a mask (`mask_loss` "pixels")."""
        if self.legacy.mask_loss == "regions":
            return super().mask_loss(masks, has_mask, kept)
        return (masks * kept).sum() / mean_count((has_mask & kept).sum(dtype=masks.dtype))

    @override
    def is_candidate(self, boxes: Tensor) -> Tensor:
        """All boxes, with `drop` "after"."""
        if self.legacy.drop == "before":
            return super().is_candidate(boxes)
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)

    @override
    def is_detection(self, boxes: Tensor) -> Tensor:
        """With `drop` "after", boxes with sides longer than `min_size` in pixels of the file."""
        if self.legacy.drop == "before":
            return super().is_detection(boxes)
        return ((boxes[..., 2:] - boxes[..., :2]) > self.config.min_size).all(-1)

    @override
    def vote(self, boxes: Tensor, masks: Tensor, weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Votes above the threshold, or at least equal to it; sums of votes can be clipped to [0, 1]."""
        threshold, inclusive = self.config.mask_threshold, self.legacy.mask_inclusive
        boxes, masks, found = vote_masks(boxes, masks, weights, sizes, threshold, inclusive)
        return boxes, masks.clamp(0, 1) if self.legacy.clip_votes else masks, found

    @override
    def pool_map(self, values: Tensor, boxes: Tensor, valid: Tensor, rounded: bool = True) -> Tensor:
        """Borders of regions can have fractions of a pixel."""
        return super().pool_map(values, boxes, valid, self.legacy.rounded_regions)
