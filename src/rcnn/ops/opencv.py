"""OpenCV's bilinear resize without OpenCV, as older frameworks prepare their images.

A pixel's value is at its centre, samples beyond the border have the border's value, and there is no antialiasing. On
uint8, OpenCV computes in integers with 11 bits per weight. So does this code, with equal results.
"""

from __future__ import annotations

import torch
from torch import Tensor

ONE = 2048  # a weight of 1, in OpenCV's fixed point


def resize_bilinear(image: Tensor, size: tuple[int, int], factor: float | None = None) -> Tensor:
    """An image (C, H, W), uint8 or float32, at `size` (height, width), in its own type.

    Args:
        image: the pixels.
        size: of the result.
        factor: scale that spaces the samples (cv2.resize with fx = fy = factor; `size` is rounded and does not match it
            exactly); None: the ratio of the two sizes, per axis.
    """
    height, width = image.shape[1:]
    # on floats, OpenCV calls Intel's IPP for a given size, which computes positions in double precision
    double = image.dtype != torch.uint8 and factor is None
    rows, row_part = _places(height, size[0], factor, double)
    columns, column_part = _places(width, size[1], factor, double)
    # beyond the border, a column has only the border's value; a row is interpolated with itself
    inside = (columns >= 0) & (columns < width - 1)
    column_part = torch.where(inside, column_part, 0.0)
    columns = columns.clamp(0, width - 1)
    upper, lower = rows.clamp(0, height - 1), (rows + 1).clamp(0, height - 1)
    used = torch.unique(torch.cat([upper, lower]))
    source = image[:, used]
    left, right = source[:, :, columns], source[:, :, (columns + 1).clamp(max=width - 1)]  # (C, rows used, w)
    upper, lower = torch.searchsorted(used, upper), torch.searchsorted(used, lower)
    if image.dtype == torch.uint8:
        x0, x1, y0, y1 = (fixed_point(part) for part in (1 - column_part, column_part, 1 - row_part, row_part))
        # OpenCV multiplies 16-bit integers here: it drops 4 of the 19 bits of `across`, keeps the upper 16 bits of each
        # product, and rounds the last 2 of the 22 bits of fraction
        across = (left.int() * x0 + right.int() * x1) >> 4
        down = ((across[:, upper] * y0[:, None]) >> 16) + ((across[:, lower] * y1[:, None]) >> 16)
        return ((down + 2) >> 2).clamp(0, 255).to(torch.uint8)
    across = left * (1 - column_part) + right * column_part
    return across[:, upper] * (1 - row_part)[:, None] + across[:, lower] * row_part[:, None]


def _places(old: int, new: int, factor: float | None, double: bool) -> tuple[Tensor, Tensor]:
    """For each of `new` output pixels along an axis: the pixel (new,) int64 at or before it, and the distance to it."""
    step = 1.0 / (new / old if factor is None else factor)
    position = (torch.arange(new, dtype=torch.float64) + 0.5) * step - 0.5
    position = position if double else position.float()
    first = position.floor()
    return first.long(), (position - first).float()


def fixed_point(part: Tensor) -> Tensor:
    """Weights in 0..1 as int32, in OpenCV's fixed point."""
    return (part * ONE).round().int()
