"""Resizes images for the network and maps detections back to the original image.

    image, frame = build_preprocessor(config.input)(image)    # resized for the network, and its geometry
    boxes = frame.to_original(boxes)                          # detections, in pixels of the file

Follows Detectron2 and torchvision. Older systems differ in details: see legacy.py. Normalisation and padding
belong to the model, which does them on its device.

Letters: N boxes of one image, J keypoints. Sizes are (height, width). Boxes are float32 xyxy in absolute pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rcnn.preprocess.config import InputConfig
from rcnn.preprocess.resizing import Resizer, resize_image

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The geometry of one image: how coordinates in the file and in the network's input correspond."""

    original: tuple[int, int]  # (height, width) of the file's image
    size: tuple[int, int]  # (height, width) of the network's image, without padding
    resized: tuple[int, int]  # (height, width) of the resized file in the network's image; `size`, except on a canvas
    corner: tuple[int, int] = (0, 0)  # (top, left) of the resized file in the network's image
    to_original_scale: tuple[float, float]  # (x, y): multiply network coordinates by this to get original pixels

    @property
    def scale(self) -> float:
        """Pixels of the network's image per pixel of the file (the geometric mean of both axes)."""
        return 1 / math.sqrt(self.to_original_scale[0] * self.to_original_scale[1])

    def to_original(self, boxes: Floats) -> Floats:
        """Convert boxes (N, 4) from the network's image to pixels of the file, and clip them (as in Detectron2)."""
        return self.clip(boxes * np.array(self.to_original_scale * 2, dtype=np.float32))

    def from_original(self, boxes: Floats) -> Floats:
        """Convert boxes (N, 4) from pixels of the file to the network's image: the inverse of `to_original`."""
        return boxes / np.array(self.to_original_scale * 2, dtype=np.float32)

    def points_to_original(self, points: Floats) -> Floats:
        """Convert keypoints (N, J, 3: x, y, score) from the network's image to pixels of the file, without clipping."""
        top, left = self.corner
        offset = np.array([left, top, 0], dtype=np.float32)
        return (points - offset) * np.array([*self.to_original_scale, 1], dtype=np.float32)

    def clip(self, boxes: Floats) -> Floats:
        """Boxes (N, 4) in pixels of the file, clipped to the image."""
        height, width = self.original
        return np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))


class Preprocessor:
    """Resizes the shorter side of images to `min_size`, or smaller if the longer side would exceed `max_size`."""

    def __init__(self, config: InputConfig, resize: Resizer = resize_image) -> None:
        self.config, self.resize = config, resize

    def __call__(self, image: Tensor) -> tuple[Tensor, Frame]:
        """Resize an image (3, H, W) uint8 RGB; return it (3, h, w), uint8 or float32 in 0..255, and its frame."""
        original = image.shape[1], image.shape[2]
        resized = self.resize(image, self.resized_size(original), self.config.resize, self.sampling_factor(original))
        return resized, self.frame(original)

    def frame(self, original: tuple[int, int]) -> Frame:
        """The frame of an image of size `original` (height, width)."""
        size = self.resized_size(original)
        return Frame(
            original=original, size=size, resized=size, to_original_scale=self.to_original_scale(size, original)
        )

    def resized_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image of size `original` after resizing.

        Rounded to the nearest pixel as in Detectron2, D2Go and tensorpack, or down as in torchvision
        (`resize="bilinear"`). Other settings of `size_rounding` are in legacy.py.
        """
        (height, width), low, high = original, self.config.min_size, self.config.max_size
        if self.config.resize == "bilinear":  # torchvision's resize is part of its models, with this rounding only
            scale = min(low / min(original), high / max(original))
            return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))
        scale = low / min(original)  # Detectron2's ResizeShortestEdge, operation by operation
        new = (low, scale * width) if height < width else (scale * height, low)
        if max(new) > high:
            scale = high / max(new)
            new = (new[0] * scale, new[1] * scale)
        return max(1, int(new[0] + 0.5)), max(1, int(new[1] + 0.5))

    def sampling_factor(self, original: tuple[int, int]) -> float | None:
        """The resize factor, with samples 1 / factor pixels apart. None: computed from the two sizes."""
        return None

    def to_original_scale(self, size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float]:
        """(x, y) factors from an image of `size` to one of size `original`; they differ because sizes are rounded."""
        return original[1] / size[1], original[0] / size[0]
