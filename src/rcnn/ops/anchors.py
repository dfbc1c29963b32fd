"""Anchors: the reference boxes of a region proposal network (Ren et al. 2015, section 3.1.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Anchors (A, 4), float32 xyxy pixels centred at the origin: every size with every ratio, sizes in the outer loop.

    A size is the side, in pixels, of the square of equal area; a ratio is height / width. `rounded` gives whole
    pixels, as in torchvision's models.
    """
    if rounded:
        # in float32 and in torchvision's order of operations: otherwise a side that ends in .5 rounds differently
        scale, ratio = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32)
        stretch = ratio.sqrt()
        heights, widths = scale[:, None] * stretch, scale[:, None] * (1 / stretch)  # (sizes, ratios)
        return (torch.stack([-widths, -heights, widths, heights], -1) / 2).round().flatten(0, 1)
    cells = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            cells.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(cells, dtype=torch.float32).reshape(-1, 4)


def legacy_cell_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: float) -> Tensor:
    """Anchors (A, 4), float32 xyxy pixels, of the first cell, as in R-CNN's MATLAB code (Detectron, MXNet's FCIS).

    A square of side `stride` is stretched to each ratio in whole pixels (rounding half to even), then scaled to the
    size. The original boxes are inclusive; here the last pixel is added, so that they are half-open. Sizes are in the
    outer loop, ratios in the inner; the original order is the opposite.
    """
    cells = []
    middle = stride / 2
    for size in sizes:
        for ratio in ratios:
            width = round(math.sqrt(stride * stride / ratio))
            height = round(width * ratio)
            across, down = width * size / stride / 2, height * size / stride / 2
            cells.append([middle - across, middle - down, middle + across, middle + down])
    return torch.tensor(cells, dtype=torch.float32).reshape(-1, 4)


def grid_anchors(
    cell: Tensor, grid: tuple[int, int], stride: float | tuple[float, float], offset: float = 0.0
) -> Tensor:
    """Anchors (H * W * A, 4), xyxy pixels, of a feature map of `grid` (H, W): `cell` (A, 4) at every position.

    Order: y, then x, then anchor. `stride` is in pixels, (down, across) if they differ; `offset` is the position of the
    first centre in strides.
    """
    height, width = grid
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(height, device=cell.device, dtype=torch.float32) + offset) * down
    x = (torch.arange(width, device=cell.device, dtype=torch.float32) + offset) * across
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    shifts = torch.stack([x, y, x, y], -1)  # (H, W, 4)
    return (shifts[:, :, None] + cell.float()).reshape(-1, 4)


def whole_cells(grid: tuple[int, int], steps: tuple[float, float], sizes: Tensor, anchors: int) -> Tensor:
    """Whether the cell of each anchor is entirely inside the image: bool (B, anchors), in the order of `grid_anchors`.

    `grid` is the map's (height, width) in cells, `steps` a cell's (height, width) in pixels, and `sizes` (B, 2) are the
    images' (height, width) in pixels.
    """
    height, width = grid
    rows = (torch.arange(height, device=sizes.device) + 1) * steps[0] <= sizes[:, :1]  # (B, H)
    columns = (torch.arange(width, device=sizes.device) + 1) * steps[1] <= sizes[:, 1:]  # (B, W)
    cells = (rows[:, :, None] & columns[:, None]).flatten(1)  # (B, H * W)
    return cells[..., None].expand(-1, -1, anchors // (height * width)).flatten(1)
