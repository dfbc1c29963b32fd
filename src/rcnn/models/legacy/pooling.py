"""Pooling by cropping and resizing, as in systems from before RoIAlign, and in TensorFlow."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from rcnn.models.detector import Detector
from rcnn.models.pooler import CANONICAL_SIZE, RegionPooler
from rcnn.ops.crop_resize import crop_resize
from rcnn.structures import ImageBatch

SIZES = "image_sizes"  # key in the features: (height, width) of each image without padding, (B, 2) float32


class SizedDetector(Detector):
    """A detector for poolers that depend on the sizes of the images."""

    @override
    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """The feature maps, and the sizes of the images."""
        return super().features(images) | {SIZES: images.sizes.float()}


class CropPooler(RegionPooler):
    """Crop whole cells of the map, then resize them (chainer-mask-rcnn)."""

    kinds = ("crop_resize",)
    rule: Literal["crop_resize", "affine", "normalized"] = "crop_resize"  # of the samples, see `ops.crop_resize`

    @override
    def pool(self, maps: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, scales: list[float]) -> Tensor:
        """Features (B, R, C, s, s) of regions (B, R, 4)."""
        if not self.config.max_pool:
            return crop_resize(maps, boxes, levels, valid, scales, self.config.size, self.rule)
        samples = crop_resize(maps, boxes, levels, valid, scales, 2 * self.config.size, self.rule)
        return F.max_pool2d(samples.flatten(0, 1), 2).unflatten(0, boxes.shape[:2])


class AffinePooler(CropPooler):
    """Bilinear samples from border to border, both included; zeros outside the map (mask-faster-rcnn)."""

    kinds = ("affine",)
    rule = "affine"


class ImageAffinePooler(AffinePooler):
    """Like `AffinePooler`, but the image's first and last pixels are mapped to the map's first and last cells.

    This is mask-faster-rcnn's POOLING_ALIGN. `NormalizedPooler` differs in that it uses the pixels of the input, which
    includes the padding of the batch. This class needs the image sizes that `SizedDetector` adds to the features.
    """

    kinds = ("image_affine",)

    @override
    def corners(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """Corners (B, R, 4), scaled so that the image's first and last pixels are the map's first and last cells."""
        [stride] = self.strides.values()
        sides = features[SIZES].flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
        cells = torch.ceil(sides / stride)  # of the map, without the padding of the batch
        return super().corners(features, boxes) * ((cells - 1) * stride / (sides - 1).clamp(min=1))


class NormalizedPooler(CropPooler):
    """Like `AffinePooler`, but the first and last pixels of the input are mapped to the map's first and last cells.

    This is matterport's pooling.
    """

    kinds = ("normalized",)
    rule = "normalized"

    @override
    def canonical_size(self, features: dict[str, Tensor]) -> float:
        """Side of the regions that are pooled from p4, pixels: smaller than 224 by the square root of 2.

        Matterport rounds levels to the nearest, `assign_levels` rounds down. Also, Matterport divides region sizes by
        (image side - 1).
        """
        side = max(features[next(iter(self.strides))].shape[2:]) * next(iter(self.strides.values()))
        return CANONICAL_SIZE / 2**0.5 * (side - 1) / side
