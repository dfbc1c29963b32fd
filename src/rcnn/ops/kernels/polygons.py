"""`rcnn::rasterize_polygons` on CUDA: one program per region draws its object's outline, edge by edge, in registers.

The arithmetic is that of `rcnn.ops.polygons`, in float64 where it is there. Letters: B images, G ground-truth objects,
E edges of an object, R regions, m the side of the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FINE_PER_PIXEL = tl.constexpr(5)  # as in rcnn.ops.polygons
SHORTEST_SIDE = tl.constexpr(0.1)  # of a box, pixels


def rasterize_polygons(polygons: Tensor, matched: Tensor, boxes: Tensor, valid: Tensor, size: int) -> Tensor:
    """Masks (B, R, m, m) float32 of 0 and 1; see `rcnn.ops.polygons`."""
    masks = torch.zeros((*valid.shape, size, size), dtype=torch.float32, device=boxes.device)
    if masks.numel() and polygons.numel():
        _fill_kernel[(valid.numel(),)](
            polygons.contiguous(),
            matched.contiguous(),
            boxes.float().contiguous(),
            valid.contiguous().view(torch.uint8),
            masks,
            valid.shape[1],
            *polygons.shape[1:3],
            SIZE=size,
            BLOCK=triton.next_power_of_2(size),
            enable_fp_fusion=False,  # a fused multiplication and addition would round differently
        )
    return masks


@triton.jit
def _fine(point: tl.tensor, low: tl.tensor, high: tl.tensor, SIZE: tl.constexpr):
    """A coordinate on the fine grid of a box from `low` to `high`, int64."""
    side = high - low
    ratio = tl.div_rn(tl.full((), SIZE, tl.float32), side).to(tl.float64)
    ratio = tl.where(side >= SHORTEST_SIDE, ratio, tl.full((), SIZE / SHORTEST_SIDE, tl.float64))
    return ((point.to(tl.float64) - low.to(tl.float64)) * ratio * FINE_PER_PIXEL + 0.5).to(tl.int64)


@triton.jit
def _crossing_row(x1: tl.tensor, y1: tl.tensor, x2: tl.tensor, y2: tl.tensor, column: tl.tensor):
    """The fine row (m,) at which the walk along an edge passes from fine `column` (m,) to the next one."""
    width = tl.abs(x2 - x1)
    height = tl.abs(y2 - y1)
    along_x = width >= height
    swapped = (along_x & (x1 > x2)) | ((height > width) & (y1 > y2))
    x = tl.where(swapped, x2, x1)
    y = tl.where(swapped, y2, y1)
    rise = tl.where(along_x, tl.where(swapped, y1, y2) - y, tl.where(swapped, x1, x2) - x).to(tl.float64)
    slope = rise / tl.where(along_x, width, height).to(tl.float64)

    steps = (column - x).to(tl.float64)
    row = (y.to(tl.float64) + slope * steps + 0.5).to(tl.int64)
    next_row = (y.to(tl.float64) + slope * (steps + 1.0) + 0.5).to(tl.int64)
    row_along_x = tl.minimum(row, next_row)

    steps = tl.floor((steps + 0.5) / tl.where(along_x, 1.0, slope)) - 1.0
    for _ in tl.static_range(2):
        next_x = (x.to(tl.float64) + slope * (steps + 1.0) + 0.5).to(tl.int64)
        has_not_passed = tl.where(slope > 0.0, next_x <= column, next_x > column)
        steps += has_not_passed.to(tl.float64)
    return tl.where(along_x, row_along_x, y + steps.to(tl.int64))


@triton.jit
def _fill_kernel(
    polygons: tl.tensor,  # (B, G, E, 5)
    matched: tl.tensor,  # (B, R) int64
    boxes: tl.tensor,  # (B, R, 4) float32
    valid: tl.tensor,  # (B, R) uint8
    masks: tl.tensor,  # (B, R, m, m) float32, written
    regions: tl.tensor,
    objects: tl.tensor,
    edges: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    region = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK)
    if tl.load(valid + region) != 0:
        left = tl.load(boxes + region * 4)
        top = tl.load(boxes + region * 4 + 1)
        right = tl.load(boxes + region * 4 + 2)
        bottom = tl.load(boxes + region * 4 + 3)
        edge = polygons + (region // regions * objects + tl.load(matched + region)) * edges * 5
        united = tl.zeros((BLOCK, BLOCK), tl.int32)  # the parts that are finished
        parity = tl.zeros((BLOCK, BLOCK), tl.int32)  # of the crossings above each cell, in the present part
        present = -1
        before = (column * FINE_PER_PIXEL + 2).to(tl.int64)
        for number in range(edges):
            part = tl.load(edge + number * 5 + 4).to(tl.int32)
            if part >= 0:
                if part != present:
                    united = united | parity
                    parity = parity * 0
                    present = part
                x1 = _fine(tl.load(edge + number * 5), left, right, SIZE)
                y1 = _fine(tl.load(edge + number * 5 + 1), top, bottom, SIZE)
                x2 = _fine(tl.load(edge + number * 5 + 2), left, right, SIZE)
                y2 = _fine(tl.load(edge + number * 5 + 3), top, bottom, SIZE)
                crossed = (tl.minimum(x1, x2) <= before) & (before + 1 <= tl.maximum(x1, x2))
                y = (_crossing_row(x1, y1, x2, y2, before).to(tl.float64) + 0.5) / FINE_PER_PIXEL - 0.5
                first = tl.ceil(tl.minimum(tl.maximum(y, 0.0), SIZE * 1.0)).to(tl.int32)
                parity = parity ^ (crossed[None, :] & (row[:, None] >= first[None, :])).to(tl.int32)
        united = united | parity
        inside = (row < SIZE)[:, None] & (column < SIZE)[None, :]
        place = (region * SIZE + row[:, None]) * SIZE + column[None, :]
        tl.store(masks + place, united.to(tl.float32), mask=inside)
