"""Box rules of systems that rescale boxes to the original image before clipping."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from rcnn.models.heads.box import BoxHead
from rcnn.ops.boxes import sides_longer_than
from rcnn.preprocess.config import InputConfig
from rcnn.structures import ImageBatch


def clips_to_file(config: InputConfig) -> bool:
    """Whether boxes are clipped to `scaled_file_sizes`, and not to the sizes of the input."""
    return config.rescale in ("width", "height", "factor")


def scaled_file_sizes(images: ImageBatch) -> Tensor:
    """Sizes (B, 2) of the original images in pixels of the network input; without them, the sizes of the input.

    Some systems scale boxes back by one factor for both axes, and then clip them. The network input was rounded to
    whole pixels, so its size differs slightly from that of the scaled image.
    """
    if images.originals is None:
        return images.sizes
    return images.originals * images.scales_or_one[:, None]


class SubpixelBoxHead(BoxHead):
    """A box head that also removes boxes without area after rounding to pixels of the file (chainer-mask-rcnn)."""

    @override
    def allowed(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Which boxes (B, R, K, 4) have an area in whole pixels of the file."""
        return sides_longer_than((boxes / images.scales_or_one.view(-1, 1, 1, 1)).round())
