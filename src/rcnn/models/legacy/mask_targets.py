"""Ground-truth masks cropped from bitmaps as in tensorpack, chainer-mask-rcnn, DeNA and mask-faster-rcnn."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from rcnn.models.heads.mask_targets import BitmapTargets
from rcnn.models.heads.regions import Regions
from rcnn.ops.bitmap_targets import Cut, cut_bitmaps
from rcnn.structures import ImageBatch

CUTS: dict[str, Cut] = {
    "sampled_bitmap": "sampled",
    "resized_bitmap": "resized",
    "truncated_bitmap": "truncated",
    "nearest_bitmap": "nearest",
}


class CutBitmapTargets(BitmapTargets):
    """Bitmaps, cropped and resized as `MaskHeadConfig.target` says."""

    @override
    def crop(self, bitmaps: Tensor, regions: Regions, size: int, images: ImageBatch) -> Tensor:
        """Masks (B, R, size, size) from bitmaps (B, G, H, W)."""
        cut = CUTS[self.kind]
        boxes = self.rules.to_inclusive(regions.boxes) if cut == "nearest" else regions.boxes
        return cut_bitmaps(bitmaps, regions.matched, boxes, regions.positive, size, cut, images.sizes)
