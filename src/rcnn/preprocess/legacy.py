"""Preprocessing of older systems: other rounding, another mapping back to the file, or a fixed input size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from rcnn.preprocess.config import Rounding
from rcnn.preprocess.preprocessor import Floats, Frame, Preprocessor


class FactorPreprocessor(Preprocessor):
    """Systems that compute one factor for both axes: Detectron, MXNet's and Chainer's networks, tensorpack."""

    @override
    def resized_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(height, width): `original` times one factor, rounded down ("floor") or as OpenCV does it."""
        rounding = self.config.size_rounding
        if rounding == "round":
            return super().resized_size(original)
        factor = resize_factor(original, self.config.min_size, self.config.max_size, rounding)
        to_integer = int if rounding == "floor" else round  # like OpenCV, round() rounds .5 to the even neighbour
        return max(1, to_integer(original[0] * factor)), max(1, to_integer(original[1] * factor))

    @override
    def sampling_factor(self, original: tuple[int, int]) -> float | None:
        """The resize factor if the system passes it to OpenCV; None if the system passes the rounded size."""
        if self.config.size_rounding not in ("factor", "factor_limit"):
            return None
        return resize_factor(original, self.config.min_size, self.config.max_size, self.config.size_rounding)

    @override
    def to_original_scale(self, size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float]:
        """(x, y) factors from an image of `size` to the file, as `config.rescale` says: see InputConfig."""
        x, y = super().to_original_scale(size, original)
        match self.config.rescale:
            case "axes":
                return x, y
            case "width":
                return x, x
            case "height":
                return y, y
            case "geometric":
                return math.sqrt(x * y), math.sqrt(x * y)
            case "factor":
                config = self.config
                factor = resize_factor(original, config.min_size, config.max_size, config.size_rounding)
                return 1 / factor, 1 / factor


class CanvasPreprocessor(FactorPreprocessor):
    """Places images in the centre of a black square of `canvas` x `canvas` pixels (matterport)."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Frame]:
        """Resize an image (3, H, W) uint8 RGB; return the square (3, canvas, canvas), and the frame."""
        resized, frame = super().__call__(image)
        return place_on_canvas(resized, self.config.canvas), frame

    @override
    def frame(self, original: tuple[int, int]) -> Frame:
        """The frame of an image of size `original`; scales compare distances between the outermost pixel centres."""
        resized, canvas = self.resized_size(original), self.config.canvas
        # a side of one pixel counts as half: boxes are rounded to that pixel, and the scale is not 0
        y, x = [max(0.5, side - 1) / max(1, new - 1) for side, new in zip(original, resized, strict=True)]
        return CanvasFrame(
            original=original,
            size=(canvas, canvas),
            resized=resized,
            corner=canvas_corner(resized, canvas),
            to_original_scale=(x, y),
        )


@dataclass(frozen=True, kw_only=True)
class CanvasFrame(Frame):
    """The frame of an image on a canvas."""

    @override
    def to_original(self, boxes: Floats) -> Floats:
        """Convert boxes (N, 4) from the canvas to pixels of the file; matterport rounds inclusive boxes to integers."""
        top, left = self.corner
        moved = (boxes - np.array([left, top] * 2, np.float32)) * np.array(self.to_original_scale * 2, dtype=np.float32)
        return self.clip(np.round(moved + np.array([0, 0, 1, 1], np.float32)))

    @override
    def from_original(self, boxes: Floats) -> Floats:
        """Convert boxes (N, 4) from pixels of the file to pixels of the canvas."""
        top, left = self.corner
        return super().from_original(boxes - np.array([0, 0, 1, 1], np.float32)) + np.array([left, top] * 2, np.float32)


def resize_factor(size: tuple[int, int], min_size: int, max_size: int, rounding: Rounding) -> float:
    """The resize factor for both sides of `size` (height, width), before rounding, as in systems with OpenCV."""
    factor = min_size / min(size)
    if rounding == "factor_up":
        factor = max(1.0, factor)
    long = factor * max(size)
    if rounding in ("factor_limit", "factor_up"):
        long = round(long)
    return max_size / max(size) if long > max_size else factor


def canvas_corner(size: tuple[int, int], canvas: int) -> tuple[int, int]:
    """(top, left) of an image of `size` in the centre of a square canvas. Raises ValueError if it does not fit."""
    if max(size) > canvas:
        raise ValueError(
            f"an image resized to {size} (height, width) does not fit on input.canvas={canvas}; set input.max_size to "
            f"{canvas} or less"
        )
    return (canvas - size[0]) // 2, (canvas - size[1]) // 2


def place_on_canvas(image: Tensor, canvas: int) -> Tensor:
    """An image (..., H, W) in the centre of (..., canvas, canvas) zeros."""
    height, width = image.shape[-2:]
    top, left = canvas_corner((height, width), canvas)
    return F.pad(image, (left, canvas - width - left, top, canvas - height - top))
