"""`rcnn::ps_roi_pool` on CUDA: each program sums the points of one cell of a region, for a block of channels.

Letters: B images, R regions, C channels of the result, k groups per side, s cells per side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.ops.precision import at_least_float32

MAX_CHANNELS = 32  # of a program
POINTS = 16  # of a row of a cell, at a time


def ps_roi_pool(maps: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], groups: int) -> Tensor:
    """The means (B, R, C, s, s), in memory (B, R, s, s, C), of the cells of regions in maps (B, C * k * k, H, W).

    `rows` and `columns` are the first points of the cells, and one past the last, (B, R, s) int64.
    """
    batch, regions, size = rows[0].shape
    out = maps.new_empty((batch, regions, size, size, maps.shape[1] // groups**2))
    if out.numel():
        _launch(_mean_kernel, out, maps.contiguous(), rows, columns, groups)
    return out.permute(0, 1, 4, 2, 3)


def ps_roi_pool_backward(
    gradient: Tensor, maps: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], groups: int
) -> None:
    """Add the gradient of the maps to `maps`, zeros (B, C * k * k, H, W), float32 at least, by atomic sums.

    `gradient` (B, R, C, s, s) is that of the means.
    """
    if gradient.numel():
        _launch(_share_kernel, gradient.permute(0, 1, 3, 4, 2).contiguous(), maps, rows, columns, groups)


def _launch(
    kernel: triton.JITFunction,
    pooled: Tensor,
    maps: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    groups: int,
) -> None:
    batch, regions, size, _, channels = pooled.shape
    block = min(triton.next_power_of_2(channels), MAX_CHANNELS)
    kernel[(batch * regions * size * size, triton.cdiv(channels, block))](
        pooled,
        maps,
        *(ends.to(torch.int32).contiguous() for ends in (*rows, *columns)),
        regions,
        channels,
        *maps.shape[2:],
        SIZE=size,
        GROUPS=groups,
        BLOCK=block,
        POINTS=POINTS,
        ACCUMULATOR=tl.float64 if at_least_float32(pooled).dtype == torch.float64 else tl.float32,
        num_warps=2,
    )


@triton.jit
def _cell(
    maps: tl.tensor,
    tops: tl.tensor,
    bottoms: tl.tensor,
    lefts: tl.tensor,
    rights: tl.tensor,
    regions: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Channels of the program's cell, the maps that they read, the cell's borders, and its place in the result."""
    cell = tl.program_id(0).to(tl.int64)
    region = cell // (SIZE * SIZE)
    row = cell // SIZE % SIZE
    column = cell % SIZE
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    group = row * GROUPS // SIZE * GROUPS + column * GROUPS // SIZE
    planes = maps + ((region // regions * channels + channel) * (GROUPS * GROUPS) + group) * height * width
    top = tl.load(tops + region * SIZE + row)
    bottom = tl.load(bottoms + region * SIZE + row)
    left = tl.load(lefts + region * SIZE + column)
    right = tl.load(rights + region * SIZE + column)
    return channel, planes, top, bottom, left, right, cell * channels + channel


@triton.jit
def _mean_kernel(
    pooled: tl.tensor,  # (B, R, s, s, C), written
    maps: tl.tensor,  # (B, C * k * k, H, W)
    tops: tl.tensor,  # (B, R, s) int32, as the three below
    bottoms: tl.tensor,
    lefts: tl.tensor,
    rights: tl.tensor,
    regions: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    POINTS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    channel, planes, top, bottom, left, right, place = _cell(
        maps, tops, bottoms, lefts, rights, regions, channels, height, width, SIZE, GROUPS, BLOCK
    )
    real = channel < channels
    total = tl.zeros((BLOCK,), ACCUMULATOR)
    for y in range(top, bottom):
        for start in range(left, right, POINTS):
            x = start + tl.arange(0, POINTS)
            inside = real[:, None] & (x < right)[None, :]
            values = tl.load(planes[:, None] + y * width + x[None, :], mask=inside, other=0.0)
            total += tl.sum(values.to(ACCUMULATOR), 1)
    area = tl.maximum(bottom - top, 0) * tl.maximum(right - left, 0)
    total = total / tl.maximum(area, 1)
    tl.store(pooled + place, total.to(pooled.dtype.element_ty), mask=real)


@triton.jit
def _share_kernel(
    gradient: tl.tensor,  # (B, R, s, s, C)
    maps: tl.tensor,  # (B, C * k * k, H, W), added to
    tops: tl.tensor,
    bottoms: tl.tensor,
    lefts: tl.tensor,
    rights: tl.tensor,
    regions: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    POINTS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    channel, planes, top, bottom, left, right, place = _cell(
        maps, tops, bottoms, lefts, rights, regions, channels, height, width, SIZE, GROUPS, BLOCK
    )
    real = channel < channels
    area = tl.maximum(bottom - top, 0) * tl.maximum(right - left, 0)
    share = tl.load(gradient + place, mask=real, other=0.0).to(ACCUMULATOR) / tl.maximum(area, 1)
    for y in range(top, bottom):
        for start in range(left, right, POINTS):
            x = start + tl.arange(0, POINTS)
            inside = real[:, None] & (x < right)[None, :]
            values = tl.zeros((BLOCK, POINTS), ACCUMULATOR) + share[:, None]
            tl.atomic_add(planes[:, None] + y * width + x[None, :], values, mask=inside, sem="relaxed")
