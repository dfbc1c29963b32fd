"""Preprocessing without a resize, for exported files that resize images themselves."""

from __future__ import annotations

from torch import Tensor

from rcnn.preprocess.preprocessor import Frame


class WholeImage:
    """Does not resize: the input of the network is the image itself, and detections are in its pixels."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Frame]:
        """An image (3, H, W) uint8 RGB unchanged, and its frame."""
        return image, self.frame((image.shape[1], image.shape[2]))

    def frame(self, original: tuple[int, int]) -> Frame:
        """The frame of an image of size `original` (height, width)."""
        return Frame(original=original, size=original, resized=original, to_original_scale=(1.0, 1.0))
