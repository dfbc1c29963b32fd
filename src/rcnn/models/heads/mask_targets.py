"""Ground-truth masks in the frames of regions (He et al. 2017, section 3).

Letters: B images, G ground-truth objects, R regions, m side of a mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.heads.regions import Regions
from rcnn.ops.masks import crop_bitmaps
from rcnn.ops.polygons import rasterize_polygons
from rcnn.structures import ImageBatch, Targets


class MaskTargets(ABC):
    """Crops ground-truth masks to regions; `kind` is `MaskHeadConfig.target`."""

    def __init__(self, kind: str = "polygon", rules: BoxRules = HALF_OPEN) -> None:
        self.kind, self.rules = kind, rules

    @abstractmethod
    def __call__(self, regions: Regions, targets: Targets, size: int, images: ImageBatch) -> Tensor:
        """Masks (B, R, size, size) float32 of each region's matched object."""

    @abstractmethod
    def has_mask(self, targets: Targets) -> Tensor:
        """Which objects (B, G) have a mask; some are annotated with a box only."""


class PolygonTargets(MaskTargets):
    """Polygons, rasterized in each region's frame as pycocotools does (Detectron2)."""

    @override
    def __call__(self, regions: Regions, targets: Targets, size: int, images: ImageBatch) -> Tensor:
        """Masks (B, R, size, size) float32 of each region's matched object."""
        if targets.polygons is None:
            raise ValueError(
                "mask.target=polygon trains on Targets.polygons, but the batch has none; use a data set with masks"
            )
        frames = self.rules.mask_frames(regions.boxes)
        return rasterize_polygons(targets.polygons, regions.matched, frames, regions.positive, size)

    @override
    def has_mask(self, targets: Targets) -> Tensor:
        """Which objects (B, G) have a mask; some are annotated with a box only."""
        assert targets.polygons is not None, "__call__ has checked that the batch has polygons"
        return (targets.polygons[..., 4] >= 0).any(-1)


class BitmapTargets(MaskTargets):
    """Bitmaps, sampled in each region's frame; binarized at 0.5 (Detectron2) or not (soft_bitmap, torchvision)."""

    @override
    def __call__(self, regions: Regions, targets: Targets, size: int, images: ImageBatch) -> Tensor:
        """Masks (B, R, size, size) float32 of each region's matched object."""
        if targets.bitmaps is None:
            raise ValueError(
                f"mask.target={self.kind} trains on Targets.bitmaps, but the batch has none; use a data set with masks"
            )
        return self.crop(targets.bitmaps, regions, size, images)

    def crop(self, bitmaps: Tensor, regions: Regions, size: int, images: ImageBatch) -> Tensor:
        """Masks (B, R, size, size) from bitmaps (B, G, H, W)."""
        soft = self.kind == "soft_bitmap"
        threshold = None if soft else 0.5
        return crop_bitmaps(bitmaps, regions.matched, regions.boxes, regions.positive, size, not soft, threshold)

    @override
    def has_mask(self, targets: Targets) -> Tensor:
        """Which objects (B, G) have a mask; some are annotated with a box only."""
        assert targets.bitmaps is not None, "__call__ has checked that the batch has bitmaps"
        return targets.bitmaps.flatten(2).any(-1)
