"""Geometry and colour of a training sample: image and objects changed together, on the CPU, nothing in place.

Coordinates are continuous: a pixel covers [x, x + 1], its centre lies at x + 0.5, an image of width W ends at W. So a
mirror takes x to W - x for boxes, outlines and keypoints alike. (COCO's files number keypoints by pixel: `make_sample`
adds the half that puts them at the pixel's centre, without which the mirror would be W - 1 - x.)

Letters: N objects of the image, E edges of one object's outline, J keypoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as pixels

from rcnn.ops.opencv import resize_bilinear

Resize = Literal["antialias", "bilinear", "align_corners", "opencv", "opencv_float"]
Rounding = Literal["round", "floor", "factor", "factor_limit", "factor_up"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and the N objects that are to be learnt from it; crowds are not among them, but beside."""

    image: Tensor  # (3, H, W) uint8 RGB, or float32 in 0..255
    boxes: Tensor  # (N, 4) float32 xyxy pixels
    labels: Tensor  # (N,) int64 in [0, K)
    # an object's edges, each (E, 5) float64: x1, y1, x2, y2, part, as in Targets.polygons; None: not asked for
    outlines: tuple[np.ndarray, ...] | None = None
    bitmaps: Tensor | None = None  # (N, H, W) bool
    keypoints: Tensor | None = None  # (N, J, 3) float32: x, y, visibility 0, 1 or 2; zeros where it is 0
    crowds: Tensor | None = None  # (I, 4) float32 xyxy pixels; None: not asked for

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
    """What `augment` reads of a run's settings."""

    @property
    def flip(self) -> float:
        """Probability of mirroring left to right."""
        ...

    @property
    def scales(self) -> tuple[int, ...]:
        """Shorter sides to draw from, pixels; none: the input's own."""
        ...

    @property
    def jitter(self) -> float:
        """Largest relative change of brightness, contrast and saturation."""
        ...


class Input(Protocol):
    """What is read of a model's input settings."""

    @property
    def min_size(self) -> int:
        """Shorter side after resizing, pixels."""
        ...

    @property
    def max_size(self) -> int:
        """Longer side at most, pixels."""
        ...

    @property
    def resize(self) -> Resize:
        """By which rule of `resize_shortest`."""
        ...

    @property
    def size_rounding(self) -> Rounding:
        """Of the resized sides, as `resized_size` says."""
        ...

    @property
    def canvas(self) -> int:
        """Side of the square in whose middle images lie; 0: they lie on none."""
        ...

    @property
    def divisor(self) -> int:
        """What sides are multiples of under exact padding."""
        ...


def resized_size(
    size: tuple[int, int], min_size: int, max_size: int, kind: Resize, rounding: Rounding = "round"
) -> tuple[int, int]:
    """(height, width) after resizing `size`: the shorter side `min_size`, less where the longer would pass `max_size`.

    Sides are rounded as the system rounds them whose resizing `kind` is: Detectron2, D2Go and tensorpack to the nearest
    pixel, torchvision down. With a `rounding` other than "round" they are those of `resize_factor`: rounded down, or to
    the nearest pixel as OpenCV does it.
    """
    height, width = size
    short, long = min(size), max(size)
    if rounding != "round":
        scale = resize_factor(size, min_size, max_size, rounding)
        cut = int if rounding == "floor" else round  # round(), like OpenCV, gives a half to the even neighbour
        rounded = cut(height * scale), cut(width * scale)
    elif kind != "bilinear":  # Detectron2's ResizeShortestEdge, operation by operation
        scale = min_size / short
        new = (min_size, scale * width) if height < width else (scale * height, min_size)
        if max(new) > max_size:
            scale = max_size / max(new)
            new = (new[0] * scale, new[1] * scale)
        rounded = int(new[0] + 0.5), int(new[1] + 0.5)
    else:
        scale = min(min_size / short, max_size / long)
        rounded = math.floor(height * scale), math.floor(width * scale)
    return max(1, rounded[0]), max(1, rounded[1])


def resize_factor(size: tuple[int, int], min_size: int, max_size: int, rounding: Rounding) -> float:
    """What both sides of `size` are multiplied by, before any rounding; as the systems that use OpenCV compute it."""
    factor = min_size / min(size)
    if rounding == "factor_up":
        factor = max(1.0, factor)
    long = factor * max(size)
    if rounding in ("factor_limit", "factor_up"):
        long = round(long)
    return max_size / max(size) if long > max_size else factor


def resize_shortest(image: Tensor, min_size: int, max_size: int, kind: Resize, rounding: Rounding = "round") -> Tensor:
    """An image (3, H, W) uint8 resized to `resized_size`.

    antialias: Pillow's bilinear, bit for bit, uint8 (Detectron2). bilinear: between pixel centres without antialiasing,
    float32 (torchvision, which normalises first; both being linear, the order does not matter). align_corners: the same
    with the corners' centres on each other (D2Go). opencv: OpenCV's bilinear, bit for bit, uint8 (tensorpack when it
    predicts, chainer-mask-rcnn); opencv_float: on floats (DeNA, FCIS in Chainer, Detectron, mask-faster-rcnn).
    """
    size = image.shape[1], image.shape[2]
    factor = resize_factor(size, min_size, max_size, rounding) if rounding in ("factor", "factor_limit") else None
    return resize_image(image, resized_size(size, min_size, max_size, kind, rounding), kind, factor)


def resize_image(image: Tensor, size: tuple[int, int], kind: Resize, factor: float | None = None) -> Tensor:
    """An image (3, H, W) uint8 at `size` (height, width); `kind` as in `resize_shortest`.

    OpenCV's kinds take samples 1 / `factor` pixels apart, where it is given, whatever `size` was rounded to.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image is {tuple(image.shape)} {image.dtype}, wanted (3, H, W) uint8")
    if kind == "antialias":
        if tuple(image.shape[1:]) == tuple(size):
            return image
        rows = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(np.array(rows.resize(size[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)
    if kind in ("opencv", "opencv_float"):
        return resize_bilinear(image if kind == "opencv" else image.float(), size, factor)
    planes = image.contiguous()[None].float()  # for floats twice as fast as channels last
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=kind == "align_corners")[0]


def resize(sample: Sample, size: tuple[int, int], kind: Resize, factor: float | None = None) -> Sample:
    """A sample at `size` (height, width); each axis of its objects is scaled by its own factor, which rounding made.

    `factor`: that of the image's samples, as in `resize_image`.
    """
    y, x = size[0] / sample.size[0], size[1] / sample.size[1]
    bitmaps = sample.bitmaps
    if bitmaps is not None:
        rows = _nearest(sample.size[0], size[0], kind)
        columns = _nearest(sample.size[1], size[1], kind)
        bitmaps = bitmaps[:, rows][:, :, columns]
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = (keypoints.double() * torch.tensor([x, y, 1], dtype=torch.float64)).float()
    return replace(
        sample,
        image=resize_image(sample.image, size, kind, factor),
        boxes=_scaled(sample.boxes, x, y),
        crowds=None if sample.crowds is None else _scaled(sample.crowds, x, y),
        outlines=None if sample.outlines is None else tuple(edges * (x, y, x, y, 1) for edges in sample.outlines),
        bitmaps=bitmaps,
        keypoints=keypoints,
    )


def _nearest(old: int, new: int, kind: Resize) -> Tensor:
    """For each of `new` pixels of a line, which of its `old` pixels a resized bitmap takes: (new,) int64.

    torchvision's that at floor(x scale), in float32, OpenCV's the same in float64; Detectron2's, by Pillow, that which
    holds the new pixel's centre.
    """
    if kind in ("opencv", "opencv_float"):
        places = torch.arange(new, dtype=torch.float64) * (old / new)
    elif kind == "bilinear":
        places = torch.arange(new, dtype=torch.float32) * (old / new)
    else:  # step by step as Pillow adds them up, whose rounding decides where a centre falls between two pixels
        places = torch.from_numpy(np.add.accumulate([0.5 * old / new] + [old / new] * (new - 1)))
    return places.long().clamp(max=old - 1)


def _scaled(boxes: Tensor, x: float, y: float) -> Tensor:
    return (boxes.double() * torch.tensor([x, y, x, y], dtype=torch.float64)).float()


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], 1)


def canvas_place(size: tuple[int, int], canvas: int) -> tuple[int, int]:
    """(top, left) of an image of `size` (height, width) in the middle of a square of `canvas` pixels a side.

    ValueError where it is larger.
    """
    if max(size) > canvas:
        raise ValueError(f"an image of {size} does not fit on input.canvas={canvas}: max_size may be no more than that")
    return (canvas - size[0]) // 2, (canvas - size[1]) // 2


def on_canvas(image: Tensor, canvas: int) -> Tensor:
    """An image (..., H, W) in the middle of (..., canvas, canvas) zeros."""
    height, width = image.shape[-2:]
    top, left = canvas_place((height, width), canvas)
    return F.pad(image, (left, canvas - width - left, top, canvas - height - top))


def sample_on_canvas(sample: Sample, canvas: int) -> Sample:
    """A sample in the middle of a black square."""
    top, left = canvas_place(sample.size, canvas)
    moved = np.array([left, top, left, top, 0])
    keypoints = sample.keypoints
    if keypoints is not None:
        given = keypoints[..., 2:] > 0  # absent ones stay zeros
        keypoints = torch.where(given, keypoints + keypoints.new_tensor([left, top, 0]), 0)
    return replace(
        sample,
        image=on_canvas(sample.image, canvas),
        boxes=sample.boxes + sample.boxes.new_tensor([left, top, left, top]),
        outlines=None if sample.outlines is None else tuple(e + moved for e in sample.outlines),
        bitmaps=None if sample.bitmaps is None else on_canvas(sample.bitmaps, canvas),
        keypoints=keypoints,
    )


def flip(sample: Sample, pairs: Sequence[tuple[int, int]] = ()) -> Sample:
    """A sample mirrored left to right; `pairs` are the keypoints, by index, that change places (left and right eye)."""
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
        image=pixels.horizontal_flip(sample.image),
        boxes=_mirrored(sample.boxes, width),
        crowds=None if sample.crowds is None else _mirrored(sample.crowds, width),
        outlines=outlines,
        bitmaps=None if sample.bitmaps is None else sample.bitmaps.flip(-1),
        keypoints=keypoints,
    )


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """An image (3, H, W) uint8 with each property multiplied by its factor (1: as it is), in this order."""
    image = pixels.adjust_brightness(image, brightness)
    image = pixels.adjust_contrast(image, contrast)
    return pixels.adjust_saturation(image, saturation)


def augment(
    sample: Sample, settings: Augmentation, model: Input, place: Sequence[int], pairs: Sequence[tuple[int, int]] = ()
) -> Sample:
    """A sample resized for the model and changed at random.

    All that is random is drawn from `place`, numbers that name this use of the sample (the run's seed, a position in
    its stream), so that it is the same whichever process does it. Every draw is made whether it is used or not:
    changing one setting leaves the other draws as they were.
    """
    generator = np.random.default_rng([number % 2**64 for number in place])
    sides = settings.scales or (model.min_size,)
    side = sides[int(generator.random() * len(sides))]
    mirrored = generator.random() < settings.flip
    factors = [max(0.0, 1 + settings.jitter * value) for value in generator.uniform(-1, 1, 3).tolist()]
    if settings.jitter:  # while it is uint8: torchvision takes floats to end at 1
        sample = replace(sample, image=jitter(sample.image, *factors))
    rounding = model.size_rounding
    size = resized_size(sample.size, side, model.max_size, model.resize, rounding)
    factor = (
        resize_factor(sample.size, side, model.max_size, rounding) if rounding in ("factor", "factor_limit") else None
    )
    sample = resize(sample, size, model.resize, factor)
    if model.canvas:
        sample = sample_on_canvas(sample, model.canvas)
    return flip(sample, pairs) if mirrored else sample
