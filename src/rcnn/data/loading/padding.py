"""Pads images of different sizes to one shape.

Letters: B images of a batch, (h, w) size of an image, (H, W) size of the padded batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from rcnn.arguments import require_one_of
from rcnn.preprocess import Frame
from rcnn.structures import ImageBatch

Padding = Literal["exact", "bucket"]
BUCKET = 64  # the sides of a bucket are multiples of this, pixels


def require_padding(padding: Padding) -> Padding:
    """`padding`; ValueError if there is no such rule."""
    require_one_of("padding", padding, get_args(Padding))
    return padding


def padded_shape(sizes: Sequence[tuple[int, int]], divisor: int, padding: Padding) -> tuple[int, int]:
    """The (height, width) to which images of `sizes` (height, width) are padded.

    exact: the largest height and the largest width, rounded up to multiples of `divisor` (0: not rounded).
    bucket: one of a few shapes, so that few graphs are compiled: the shorter side is a multiple of 64, the longer side
    a multiple of a quarter of the shorter side (rounded down to a multiple of 64). For images resized to 800 with a
    maximum of 1333, that is nearly always 832 x 960, 832 x 1152 or 832 x 1344, or the same in portrait.
    """
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if padding == "exact":
        return _round_up(height, divisor), _round_up(width, divisor)
    unit = math.lcm(BUCKET, max(1, divisor))
    short = _round_up(min(height, width), unit)
    long = _round_up(max(height, width), max(unit, short // 4 // unit * unit))
    return (short, long) if height <= width else (long, short)


def alike(frames: Sequence[Frame], divisor: int, padding: Padding) -> list[list[int]]:
    """The indices of the images of each batch: those padded to the same shape, or with the padding "bucket" all."""
    batches: dict[tuple[int, int], list[int]] = {}
    for place, frame in enumerate(frames):
        shape = padded_shape([frame.size], divisor, padding) if padding == "exact" else (0, 0)
        batches.setdefault(shape, []).append(place)
    return list(batches.values())


def pad_images(
    images: Sequence[Tensor],
    divisor: int,
    padding: Padding,
    frames: Sequence[Frame] | None = None,
    shape: tuple[int, int] | None = None,
) -> ImageBatch:
    """Pad B images (3, h, w), uint8 or float32 in 0..255, with zeros at the right and bottom.

    The pixels are channels last in memory, like decoded images, so that whole rows are copied. `shape` (H, W) defaults
    to `padded_shape`. `frames` give the batch the sizes of the image files and their resize factors. Raises ValueError
    for no images.
    """
    if not images:
        raise ValueError("expected at least one image in a batch, got none")
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    dtype = torch.uint8 if all(image.dtype == torch.uint8 for image in images) else torch.float32
    rows = torch.zeros(len(images), *(shape or padded_shape(sizes, divisor, padding)), 3, dtype=dtype)
    pixels = rows.permute(0, 3, 1, 2)
    for slot, image, (height, width) in zip(pixels, images, sizes, strict=True):
        slot[:, :height, :width] = image
    return ImageBatch(
        pixels=pixels,
        sizes=torch.tensor(sizes),
        scales=None if frames is None else torch.tensor([frame.scale for frame in frames], dtype=torch.float32),
        originals=None if frames is None else torch.tensor([frame.original for frame in frames]),
    )


def _round_up(side: int, divisor: int) -> int:
    return -(-side // divisor) * divisor if divisor else side
