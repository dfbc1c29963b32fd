"""Masks between the frame of a box and the frame of the image: ground truth is cropped, predictions are pasted.

Letters: B images, G ground-truth objects, R regions, N masks of one image, m the side of a mask in its box.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.opaque import opaque_op
from rcnn.ops.torchvision_operators import load_operators

MAX_CROP_BYTES = 64 * 2**20  # of ground-truth bitmaps converted to float32 at a time
_PASTE_BYTES_PER_PIXEL = 12  # the grid and the result
_COORDINATES = 2**20  # of pixels in the frames of boxes that are computed at once


class PastedMask(NamedTuple):
    """A mask at the size of its image, stored as the rectangle that contains it; no pixel is set outside."""

    x0: int  # column of the image at which `mask` starts
    y0: int
    mask: npt.NDArray[np.bool_]  # (h, w), entirely inside the image; either side may be 0


@opaque_op
def crop_bitmaps(
    bitmaps: Tensor, matched: Tensor, boxes: Tensor, valid: Tensor, size: int, aligned: bool, threshold: float | None
) -> Tensor:
    """Ground-truth masks in the frames of regions: RoIAlign of bitmaps, at scale 1 with adaptive sampling.

    Detectron2's BitMasks.crop_and_resize is aligned=True, threshold=0.5; torchvision's project_masks_on_boxes is
    aligned=False, threshold=None.

    Args:
        bitmaps: (B, G, H, W) bool, the objects at network-input size.
        matched: (B, R) int64, index of the object matched to each region.
        boxes: (B, R, 4) float xyxy pixels.
        valid: (B, R) bool; invalid rows give zeros.
        size: side of the result, pixels.
        aligned: whether boxes are shifted by half a pixel, because a pixel's value is at its centre.
        threshold: values of at least this give 1, others 0; None: values are not binarized.

    Returns:
        (B, R, size, size) float32. No gradient: targets are data.
    """
    load_operators()
    objects, height, width = bitmaps.shape[1:]
    cropped = boxes.new_zeros((*valid.shape, size, size), dtype=torch.float32)
    batch, region_index = valid.nonzero(as_tuple=True)
    if len(batch) == 0:
        return cropped
    # Convert only matched objects to float, a few at a time: 500 bitmaps of a photo would take gigabytes.
    used, owner = torch.unique(batch * objects + matched[batch, region_index], return_inverse=True)
    flat, regions = bitmaps.flatten(0, 1), boxes[batch, region_index].float()
    values = cropped.new_empty((len(batch), size, size))
    chunk = max(1, MAX_CROP_BYTES // max(1, 4 * height * width))
    for start in range(0, len(used), chunk):
        inside = ((owner >= start) & (owner < start + chunk)).nonzero()[:, 0]
        rois = torch.cat([(owner[inside] - start).float()[:, None], regions[inside]], 1)  # (r, 5)
        maps = flat[used[start : start + chunk], None].float()  # (g, 1, H, W)
        values[inside] = torch.ops.torchvision.roi_align(maps, rois, 1.0, size, size, 0, aligned)[:, 0]
    if threshold is not None:
        values = (values >= threshold).float()
    cropped[batch, region_index] = values
    return cropped


@crop_bitmaps.register_fake
def _(
    bitmaps: Tensor, matched: Tensor, boxes: Tensor, valid: Tensor, size: int, aligned: bool, threshold: float | None
) -> Tensor:
    return boxes.new_empty((*valid.shape, size, size), dtype=torch.float32)


def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5, max_bytes: int = 64 * 2**20
) -> Iterator[PastedMask]:
    """Masks (N, m, m) in [0, 1], each resized to its box (N, 4), xyxy pixels, in an image of `size` (H, W), in order.

    A pixel is set if the bilinear value at its centre (0 outside the box) is at least `threshold` (Detectron2's
    paste_masks_in_image). It needs one byte per pixel of one mask, and `max_bytes` to compute it, independent
    of N and of the image's size.

    Raises ValueError for a threshold of 0 or less, which would set pixels far from the box.
    """
    if threshold <= 0:
        raise ValueError(f"threshold is {threshold}; expected more than 0, the value outside a mask")
    height, width = size
    corners = boxes.detach().float().cpu().numpy()
    together = max(1, _COORDINATES // max(1, height + width))  # masks whose coordinates are computed at once
    for first in range(0, len(corners), together):
        left, top, right, bottom = corners[first : first + together].T
        parts = masks[first : first + together].detach().float().cpu()
        spans = zip(
            _spans(left, right, width, parts.shape[2], threshold),
            _spans(top, bottom, height, parts.shape[1], threshold),
            strict=True,
        )
        grids = zip(_to_grid(width, left, right), _to_grid(height, top, bottom), strict=True)
        for mask, ((x0, x1), (y0, y1)), (x, y) in zip(parts[:, None, None], spans, grids, strict=True):
            pasted = np.empty((y1 - y0, x1 - x0), dtype=np.bool_)
            strip = max(1, max_bytes // (_PASTE_BYTES_PER_PIXEL * max(1, x1 - x0)))  # rows at a time
            for start in range(y0, y1 if x1 > x0 else y0, strip):
                end = min(start + strip, y1)
                grid = np.empty((1, end - start, x1 - x0, 2), dtype=np.float32)
                grid[..., 0] = x[x0:x1]
                grid[..., 1] = y[start:end, None]
                value = F.grid_sample(mask, torch.from_numpy(grid), align_corners=False)[0, 0]  # (h, w)
                np.greater_equal(value.numpy(), threshold, out=pasted[start - y0 : end - y0])
            yield PastedMask(x0, y0, pasted)


def _spans(
    low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], limit: int, side: int, threshold: float
) -> list[list[int]]:
    """The pixels [first, last) of one axis that each mask of `side` pixels over [low, high] (N,) may set."""
    finite = np.isfinite(low) & np.isfinite(high)  # a box outside the image, or not finite, sets nothing
    lows, highs = (np.where(finite, end, -1).astype(np.float64) for end in (low, high))
    # Beyond the box, a mask falls from half its value to 0 over half a mask pixel: only thresholds below 0.5 reach it.
    margin = 1 if threshold >= 0.5 else 1 + np.ceil(np.maximum(0.0, highs - lows) / (2 * side))
    first = np.clip(np.floor(lows) - margin, 0, limit)
    last = np.maximum(first, np.minimum(np.ceil(highs) + margin, limit))
    return np.where(finite, (first, last), 0).astype(np.int64).T.tolist()


def _to_grid(count: int, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The centres of `count` pixels of one axis in the frame of each [low, high] (N,), as -1..1: (N, count)."""
    centres = np.arange(count, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a box without area, whose values set no pixel
        scaled = (centres - low[:, None]) / (high - low)[:, None] * np.float32(2) - np.float32(1)
    return np.asarray(scaled, dtype=np.float32)
