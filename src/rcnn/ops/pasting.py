"""Predicted masks pasted by the rules of older frameworks: resized to whole pixels.

`rcnn.ops.masks.paste_masks` is the accurate rule (Detectron2, tensorpack, nearly torchvision's). Letters: N masks of
one image, m the side of a mask in its box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcnn.ops.masks import PastedMask, paste_masks
from rcnn.ops.opencv import resize_bilinear

Paste = Literal["accurate", "padded", "squeezed", "rounded", "stretched", "fitted", "fitted_above"]
STRETCHED_CUT = 122  # of 255; mask-faster-rcnn sets pixels above it


@dataclass(frozen=True, kw_only=True)
class Pasting:
    """The rule by which masks in the frame of their box are pasted into the image; see `paste_as`."""

    kind: Paste = "accurate"
    last_pixel_inside: bool = False  # whether x2, y2 are the last pixel (inclusive)
    threshold: float = 0.5  # used by FCIS; the other kinds have fixed thresholds


def paste_as(
    kind: Paste, masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> Iterator[PastedMask]:
    """Masks (N, m, m) in [0, 1], each pasted at its box (N, 4), xyxy pixels, in an image of `size` (H, W), in order.

    accurate: bilinear values at the pixels' centres; those >= 0.5 are set.
    padded: the mask gets a border of zeros, and its box is enlarged to match and truncated to whole numbers, with both
    ends inclusive; the mask is resized to that box, and values > 0.5 are set (Detectron, chainer-mask-rcnn).
    squeezed: like padded, but the whole mask is resized to the part of that box inside the image (DeNA).
    rounded: resized to the pixels with centres inside the box; values > 0.5 are set (tensorpack's fast mode).
    stretched: each mask is scaled to the range 0..255, then resized by Pillow to the truncated box; values > 122 are
    set (mask-faster-rcnn).
    fitted: resized to the box rounded to whole pixels; values >= `threshold` are set (FCIS). fitted_above: values >
    `threshold` are set (ChainerCV). The other rules ignore `threshold`.
    """
    if kind == "accurate":
        yield from paste_masks(masks, boxes, size)
        return
    for mask, box in zip(masks.detach().float().cpu(), boxes.detach().float().cpu(), strict=True):
        if not bool(torch.isfinite(box).all()):
            yield _no_pixels()
        elif kind == "stretched":
            yield _stretched(mask, box, size)
        elif kind in ("fitted", "fitted_above"):
            yield _fitted(mask, box, size, threshold, at_least=kind == "fitted")
        elif kind == "rounded":
            x0, y0 = int(box[0] + 0.5), int(box[1] + 0.5)
            x1, y1 = max(x0, int(box[2] - 0.5)), max(y0, int(box[3] - 0.5))
            yield _resized(mask, (x0, y0, x1, y1), size)
        else:
            padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
            grown = padded.shape[-1] / mask.shape[-1]
            centre, half = (box[2:] + box[:2]) * 0.5, (box[2:] - box[:2]) * 0.5 * grown
            x0, y0, x1, y1 = (int(value) for value in torch.cat([centre - half, centre + half]))
            if kind == "squeezed":
                x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, size[1] - 1), min(y1, size[0] - 1)
            yield _resized(padded, (x0, y0, max(x0, x1), max(y0, y1)), size)


def _no_pixels() -> PastedMask:
    """A mask that sets no pixel of the image."""
    return PastedMask(0, 0, np.zeros((0, 0), np.bool_))


def _resized(mask: Tensor, window: tuple[int, int, int, int], size: tuple[int, int]) -> PastedMask:
    """`mask` resized to the pixels of `window`, (x0, y0, x1, y1) inclusive, and clipped to the image."""
    x0, y0, x1, y1 = window
    if x1 < 0 or y1 < 0 or x0 >= size[1] or y0 >= size[0]:
        return _no_pixels()
    set_there = (resize_bilinear(mask[None], (y1 - y0 + 1, x1 - x0 + 1))[0] > 0.5).numpy()
    inside = set_there[max(0, -y0) : size[0] - y0, max(0, -x0) : size[1] - x0]
    return PastedMask(max(0, x0), max(0, y0), inside)


def _fitted(mask: Tensor, box: Tensor, size: tuple[int, int], threshold: float, *, at_least: bool) -> PastedMask:
    """`mask` resized to `box`, rounded to whole pixels, and clipped to the image; it can be empty."""
    x0, y0, x1, y1 = (int(value) for value in box.round())
    if x1 <= max(x0, 0) or y1 <= max(y0, 0) or x0 >= size[1] or y0 >= size[0]:
        return _no_pixels()
    values = resize_bilinear(mask[None], (y1 - y0, x1 - x0))[0]
    set_there = (values >= threshold if at_least else values > threshold).numpy()
    return PastedMask(max(0, x0), max(0, y0), set_there[max(0, -y0) : size[0] - y0, max(0, -x0) : size[1] - x0])


def _stretched(mask: Tensor, box: Tensor, size: tuple[int, int]) -> PastedMask:
    """`mask` resized as by scipy.misc.imresize: scaled to the range 0..255, then resized by Pillow (bilinear)."""
    limit = box.new_tensor([size[1] - 1, size[0] - 1, size[1] - 1, size[0] - 1])
    x0, y0, x1, y1 = torch.minimum(box.clamp(min=0), limit).tolist()
    height, width = int(y1 - y0 + 1), int(x1 - x0 + 1)
    if height < 1 or width < 1:
        return _no_pixels()
    values = mask.numpy() * np.float32(255)
    low, high = values.min(), values.max()
    levels = (values - low) * (255.0 / ((high - low) or 1.0)) + 0.5
    grey = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    pasted = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > STRETCHED_CUT
    return PastedMask(int(x0), int(y0), pasted[: size[0] - int(y0), : size[1] - int(x0)])
