"""The value that the transforms change: one image and its objects.

Letters: N objects, E edges of one object's outline, J keypoints, I crowds, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and the N objects used in training; crowds are kept separately.

    Coordinates are continuous: a pixel covers [x, x + 1], its centre is at x + 0.5, an image of width W ends at W.
    Raises ValueError if fields have different numbers of objects.
    """

    image: Tensor  # (3, H, W) uint8 RGB, or float32 in 0..255
    boxes: Tensor  # (N, 4) float32 xyxy pixels
    labels: Tensor  # (N,) int64 in [0, K)
    # the edges of each object, (E, 5) float64: x1, y1, x2, y2, part, as in Targets.polygons; None: not requested
    outlines: tuple[np.ndarray, ...] | None = None
    bitmaps: Tensor | None = None  # (N, H, W) bool
    keypoints: Tensor | None = None  # (N, J, 3) float32: x, y, visibility 0, 1 or 2; zeros where it is 0
    crowds: Tensor | None = None  # (I, 4) float32 xyxy pixels; None: not requested
    # (height, width) of the file if `image` was resized when it was decoded: the coordinates are still the file's (see
    # data/decoded.py)
    file_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "outlines", "bitmaps", "keypoints"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"sample.{name} has length {len(value)}; expected {len(self.boxes)}, one per box")

    @property
    def is_resized(self) -> bool:
        """Whether `image` already has the network's size, and the coordinates are still in pixels of the file."""
        return self.file_size is not None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image that the coordinates refer to, in pixels."""
        return self.file_size or (self.image.shape[1], self.image.shape[2])

    def subset(self, kept: Flags) -> Sample:
        """The same image with the objects that `kept` (N,) marks, and all crowds."""
        indices = np.flatnonzero(kept)
        return replace(
            self,
            boxes=self.boxes[indices],
            labels=self.labels[indices],
            outlines=None if self.outlines is None else tuple(self.outlines[i] for i in indices.tolist()),
            bitmaps=None if self.bitmaps is None else self.bitmaps[indices],
            keypoints=None if self.keypoints is None else self.keypoints[indices],
        )
