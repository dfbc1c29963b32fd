"""Normalization of the pixels of padded images.

Letters: B images, H x W pixels with padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.tracing import is_traced


def normalize_pixels(pixels: Tensor, sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels - mean) / std of float `pixels` (B, 3, H, W), in their memory layout; the padding is 0.

    `sizes` (B, 2) int64 are (height, width) of each image without its padding, `mean` and `std` (3, 1, 1). On CPUs,
    pixels in channels-last layout are computed in rows of 3 W values, with the same values bit for bit: if channels are
    an axis, the innermost loop of each operator has 3 steps.
    """
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device) < sizes[:, :1]  # (B, H)
    columns = torch.arange(width, device=pixels.device) < sizes[:, 1:]  # (B, W)
    is_channels_last = pixels.is_contiguous(memory_format=torch.channels_last)
    if is_traced(pixels) or pixels.device.type != "cpu" or not is_channels_last:
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, H, W)
        return (pixels - mean) / std * inside
    flat = pixels.permute(0, 2, 3, 1).flatten(2)  # (B, H, 3 W)
    flat = flat.sub(mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    if not (bool(rows.all()) and bool(columns.all())):
        flat.mul_(rows[:, :, None].to(flat.dtype))
        flat.mul_(columns[:, None].repeat_interleave(3, dim=2).to(flat.dtype))
    return flat.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
