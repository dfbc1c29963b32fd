"""Preprocessing for a network with a fixed input size: images that do not fit are resized to fit."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rcnn.preprocess.build import build_preprocessor
from rcnn.preprocess.config import InputConfig
from rcnn.preprocess.preprocessor import Frame, Preprocessor


class FittedPreprocessor:
    """Like the preprocessor of `config`, but no image is larger than `size` (height, width) after resizing."""

    def __init__(self, config: InputConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size

    def __call__(self, image: Tensor) -> tuple[Tensor, Frame]:
        """Resize an image (3, H, W) uint8 RGB; return it (3, h, w), uint8 or float32 in 0..255, and its frame."""
        return self._fitting((image.shape[1], image.shape[2]))(image)

    def frame(self, original: tuple[int, int]) -> Frame:
        """The frame of an image of size `original` (height, width)."""
        return self._fitting(original).frame(original)

    def _fitting(self, original: tuple[int, int]) -> Preprocessor:
        """The preprocessor with the largest `min_size` for which an image of size `original` fits into `size`.

        For an image so long that no `min_size` makes it fit, `max_size` is reduced as well.
        """
        config = self.config
        while True:
            chosen = build_preprocessor(config)
            resized = chosen.frame(original).size
            factor = min(limit / side for limit, side in zip(self.size, resized, strict=True))
            if factor >= 1 or config.max_size == 1:
                return chosen
            # again, because rounding may leave the image a pixel too large
            if config.min_size > 1:
                config = replace(config, min_size=max(1, min(config.min_size - 1, int(min(resized) * factor))))
            else:
                config = replace(config, max_size=max(1, min(config.max_size - 1, int(max(resized) * factor))))
