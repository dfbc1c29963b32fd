"""Geometry and colour of a training sample: image and objects are changed together, on the CPU, never in place.

Coordinates are continuous: a pixel covers [x, x + 1], its centre is at x + 0.5, an image of width W ends at W. So a
horizontal flip maps x to W - x for boxes, outlines and keypoints alike. (COCO's files give the pixel index of
keypoints: `make_sample` adds 0.5, which moves them to the pixel's centre.)

Letters: N objects of the image, E edges of one object's outline, J keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from rcnn.preprocess import Frame, InputConfig, Preprocessor, Resize, build_preprocessor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and the N objects used in training; crowds are kept separately."""

    image: Tensor  # (3, H, W) uint8 RGB, or float32 in 0..255
    boxes: Tensor  # (N, 4) float32 xyxy pixels
    labels: Tensor  # (N,) int64 in [0, K)
    # the edges of each object, (E, 5) float64: x1, y1, x2, y2, part, as in Targets.polygons; None: not requested
    outlines: tuple[np.ndarray, ...] | None = None
    bitmaps: Tensor | None = None  # (N, H, W) bool
    keypoints: Tensor | None = None  # (N, J, 3) float32: x, y, visibility 0, 1 or 2; zeros where it is 0
    crowds: Tensor | None = None  # (C, 4) float32 xyxy pixels; None: not requested

    def __post_init__(self) -> None:
        for name in ("labels", "outlines", "bitmaps", "keypoints"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"a sample has {len(value)} {name} for {len(self.boxes)} boxes")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[1], self.image.shape[2]


class Augmentation(Protocol):
    """The training settings that `augment` reads."""

    @property
    def flip(self) -> float:
        """Probability of a horizontal flip."""
        ...

    @property
    def scales(self) -> tuple[int, ...]:
        """Sizes of the shorter side to draw from, pixels; empty: the size in the input settings."""
        ...

    @property
    def jitter(self) -> float:
        """Largest relative change of brightness, contrast and saturation."""
        ...


def _nearest(old: int, new: int, kind: Resize) -> Tensor:
    """Source index (new,) int64 of each pixel when a line of `old` pixels of a bitmap is resized to `new` pixels.

    torchvision takes floor(x * scale) in float32, OpenCV the same in float64; Detectron2, with Pillow, takes the pixel
    that contains the centre of the new one.
    """
    if kind in ("opencv", "opencv_float"):
        positions = torch.arange(new, dtype=torch.float64) * (old / new)
    elif kind == "bilinear":
        positions = torch.arange(new, dtype=torch.float32) * (old / new)
    else:  # summed step by step as in Pillow: its rounding decides about centres between two pixels
        positions = torch.from_numpy(np.add.accumulate([0.5 * old / new] + [old / new] * (new - 1)))
    return positions.long().clamp(max=old - 1)


def _flipped(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], 1)


def preprocess(sample: Sample, preprocessor: Preprocessor) -> tuple[Sample, Frame]:
    """A sample as the network gets it, and its frame: the image by `preprocessor`, the objects by the frame."""
    image, frame = preprocessor(sample.image)
    return to_input(sample, image, frame, preprocessor.config.resize), frame


def to_input(sample: Sample, image: Tensor, frame: Frame, kind: Resize) -> Sample:
    """A sample with its objects moved to the network's `image` (3, h, w), which lies in the file as `frame` says.

    x and y are scaled separately, since sizes were rounded. `kind` chooses the pixels of bitmaps.
    """
    (height, width), (top, left) = sample.size, frame.corner
    y, x = frame.resized[0] / height, frame.resized[1] / width
    keypoints = sample.keypoints
    if keypoints is not None:
        scaled = keypoints.double() * torch.tensor([x, y, 1], dtype=torch.float64)
        given = keypoints[..., 2:] > 0  # absent ones stay zeros
        keypoints = torch.where(given, scaled + torch.tensor([left, top, 0]), 0).float()
    outlines = sample.outlines
    if outlines is not None:
        outlines = tuple(edges * (x, y, x, y, 1) + (left, top, left, top, 0) for edges in outlines)
    scale, offset = torch.tensor([x, y, x, y], dtype=torch.float64), torch.tensor([left, top, left, top])
    return replace(
        sample,
        image=image,
        boxes=(sample.boxes.double() * scale + offset).float(),
        crowds=None if sample.crowds is None else (sample.crowds.double() * scale + offset).float(),
        outlines=outlines,
        bitmaps=None if sample.bitmaps is None else _resized_bitmaps(sample.bitmaps, frame, kind),
        keypoints=keypoints,
    )


def _resized_bitmaps(bitmaps: Tensor, frame: Frame, kind: Resize) -> Tensor:
    """Bitmaps (N, H, W) bool in the network's image, (N, h, w)."""
    (height, width), (top, left) = frame.resized, frame.corner
    rows = _nearest(bitmaps.shape[1], height, kind)
    columns = _nearest(bitmaps.shape[2], width, kind)
    resized = bitmaps[:, rows][:, :, columns]
    return F.pad(resized, (left, frame.size[1] - width - left, top, frame.size[0] - height - top))


def flip(sample: Sample, pairs: Sequence[tuple[int, int]] = ()) -> Sample:
    """A sample flipped horizontally; `pairs` are the indices of keypoints to exchange (left and right eye)."""
    width = sample.size[1]
    outlines, keypoints = sample.outlines, sample.keypoints
    if outlines is not None:
        outlines = tuple(edges * (-1, 1, -1, 1, 1) + (width, 0, width, 0, 0) for edges in outlines)
    if keypoints is not None:
        order = list(range(keypoints.shape[1]))
        for left, right in pairs:
            order[left], order[right] = right, left
        keypoints = keypoints[:, order]
        given = keypoints[..., 2:] > 0  # absent ones stay zeros
        keypoints = torch.where(
            given, keypoints * keypoints.new_tensor([-1, 1, 1]) + keypoints.new_tensor([width, 0, 0]), 0
        )
    return replace(
        sample,
        image=TF.horizontal_flip(sample.image),
        boxes=_flipped(sample.boxes, width),
        crowds=None if sample.crowds is None else _flipped(sample.crowds, width),
        outlines=outlines,
        bitmaps=None if sample.bitmaps is None else sample.bitmaps.flip(-1),
        keypoints=keypoints,
    )


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """An image (3, H, W) with each property multiplied by its factor (1: unchanged), in this order.

    It is uint8, or float32 in 0..255.
    """
    unit = 255 if image.is_floating_point() else 1  # torchvision expects floats in 0..1
    changed = TF.adjust_brightness(image if unit == 1 else image / unit, brightness)
    changed = TF.adjust_contrast(changed, contrast)
    changed = TF.adjust_saturation(changed, saturation)
    return changed if unit == 1 else changed * unit


def augment(
    sample: Sample,
    settings: Augmentation,
    input_config: InputConfig,
    seed: Sequence[int],
    pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Sample, Frame]:
    """A sample resized for the model and augmented at random, and its frame (which does not record the flip).

    All random numbers depend on `seed` only (the run's seed, the position in its stream), so that the result does not
    depend on the process that computes it. Every number is drawn whether it is used or not: changing one setting does
    not change the other draws.
    """
    generator, chosen = _drawn_size(settings, input_config, seed)
    flipped = generator.random() < settings.flip
    factors = [max(0.0, 1 + settings.jitter * value) for value in generator.uniform(-1, 1, 3).tolist()]
    sample, frame = preprocess(sample, build_preprocessor(chosen))
    if settings.jitter:  # of the resized image, which is mostly much smaller
        sample = replace(sample, image=_within(sample.image, frame, lambda image: jitter(image, *factors)))
    return flip(sample, pairs) if flipped else sample, frame


def _within(image: Tensor, frame: Frame, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`image` (3, h, w) of the network with the part that shows the file's image changed; a border stays as it is."""
    (top, left), (height, width) = frame.corner, frame.resized
    if (height, width) == image.shape[1:]:
        return change(image)
    inner = (slice(None), slice(top, top + height), slice(left, left + width))
    image = image.clone()
    image[inner] = change(image[inner])
    return image


def augmented_size(
    original: tuple[int, int], settings: Augmentation, input_config: InputConfig, seed: Sequence[int]
) -> tuple[int, int]:
    """The (height, width) of an image of size `original` after `augment` with the same arguments."""
    return build_preprocessor(_drawn_size(settings, input_config, seed)[1]).frame(original).size


def _drawn_size(
    settings: Augmentation, input_config: InputConfig, seed: Sequence[int]
) -> tuple[np.random.Generator, InputConfig]:
    """The random generator of `seed` after its first draw, and the input settings with the shorter side drawn."""
    generator = np.random.default_rng([number % 2**64 for number in seed])
    sides = settings.scales or (input_config.min_size,)
    return generator, replace(input_config, min_size=sides[int(generator.random() * len(sides))])
