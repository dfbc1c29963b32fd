"""Pooling by cropping and resizing, as systems before RoIAlign or in TensorFlow did."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from typing_extensions import override

from rcnn.models.pooler import CANONICAL_SIZE, RegionPooler
from rcnn.ops.crop_resize import crop_resize


class CropPooler(RegionPooler):
    """Crop whole cells of the map, then resize them (chainer-mask-rcnn)."""

    kind: Literal["crop_resize", "affine", "normalized"] = "crop_resize"

    @override
    def pool(self, maps: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, scales: list[float]) -> Tensor:
        """Features (B, R, C, s, s) of regions (B, R, 4)."""
        return crop_resize(maps, boxes, levels, valid, scales, self.config.size, self.kind)


class AffinePooler(CropPooler):
    """Bilinear samples from border to border, both included, zeros outside of the map (mask-faster-rcnn)."""

    kind = "affine"


class NormalizedPooler(CropPooler):
    """As `AffinePooler`, with coordinates from the first pixel's centre to the last's (matterport)."""

    kind = "normalized"

    @override
    def canonical_size(self, features: dict[str, Tensor]) -> float:
        """The canonical side of 224 pixels, for levels that are rounded to the nearest.

        Matterport's region sizes are divided by (image side - 1).
        """
        side = max(features[next(iter(self.strides))].shape[2:]) * next(iter(self.strides.values()))
        return CANONICAL_SIZE / 2**0.5 * (side - 1) / side
