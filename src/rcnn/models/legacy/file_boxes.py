"""Box rules of systems that rescale boxes to the original image before clipping."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from rcnn.models.heads.box import BoxHead
from rcnn.ops.boxes import sides_longer_than
from rcnn.structures import ImageBatch


def scaled_file_sizes(images: ImageBatch) -> Tensor:
    """Sizes (B, 2) of the files, in pixels of the input, where they are known.

    Systems that scale boxes back by one number for both axes clip them afterwards; rounding made the input slightly
    larger or smaller than the scaled file.
    """
    if images.originals is None:
        return images.sizes
    return images.originals * images.scales_or_one[:, None]


class SubpixelBoxHead(BoxHead):
    """Also removes boxes without area after rounding to whole pixels of the file (chainer-mask-rcnn)."""

    @override
    def allowed(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Which boxes (B, R, K, 4) have an area in whole pixels of the file."""
        return sides_longer_than((boxes / images.scales_or_one.view(-1, 1, 1, 1)).round())
