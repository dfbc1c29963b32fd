"""`rcnn::mask_runs` on CUDA: one program per mask walks along its columns and notes where the pasted mask changes.

No bitmap is written. Letters: N masks, m the side of a mask in its box, T changes that fit into the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 256  # pixels of a column at a time


def mask_runs(
    masks: Tensor, boxes: Tensor, spans: Tensor, height: int, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Positions (N, T) int64 of the changes, and their number (N,) int64; see `rcnn.ops.mask_runs`.

    `spans` (N, 4) int64 are the pixels x0, y0, x1, y1 that each mask may set.
    """
    changes = torch.full((len(masks), capacity), -1, dtype=torch.int64, device=masks.device)
    count = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    if len(masks):
        _runs_kernel[(len(masks),)](
            masks.contiguous(),
            boxes.float().contiguous(),
            spans.to(torch.int32).contiguous(),
            changes,
            count,
            height,
            threshold,
            capacity,
            SIDE=masks.shape[-1],
            ROWS=ROWS,
            enable_fp_fusion=False,
        )
    return changes, count


@triton.jit
def _to_samples(pixel: tl.tensor, low: tl.tensor, high: tl.tensor, SIDE: tl.constexpr):
    """The centre of a pixel in samples of a mask over [low, high]; rounded as in `grid_sample`."""
    share = tl.div_rn(pixel + 0.5 - low, high - low)
    return ((share * 2.0 - 1.0) + 1.0) * (SIDE / 2) - 0.5


@triton.jit
def _sample(mask: tl.tensor, row: tl.tensor, column: tl.tensor, SIDE: tl.constexpr):
    """The values of a mask in `row` (n,) and `column` (), 0 outside."""
    inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    return tl.load(mask + row * SIDE + column, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _is_set(
    mask: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    box: tl.tensor,
    y0: tl.tensor,
    y1: tl.tensor,
    threshold: tl.tensor,
    SIDE: tl.constexpr,
):
    """Whether the pixels in column `x` () and rows `y` (n,) are set: bilinear values, within [y0, y1)."""
    across = _to_samples(x, tl.load(box), tl.load(box + 2), SIDE)
    down = _to_samples(y, tl.load(box + 1), tl.load(box + 3), SIDE)
    left = tl.floor(across)
    top = tl.floor(down)
    beside = across - left
    below = down - top
    column = left.to(tl.int32)
    row = top.to(tl.int32)
    value = _sample(mask, row, column, SIDE) * ((1.0 - beside) * (1.0 - below))
    value += _sample(mask, row, column + 1, SIDE) * (beside * (1.0 - below))
    value += _sample(mask, row + 1, column, SIDE) * ((1.0 - beside) * below)
    value += _sample(mask, row + 1, column + 1, SIDE) * (beside * below)
    return (value >= threshold) & (y >= y0) & (y < y1)


@triton.jit
def _runs_kernel(
    masks: tl.tensor,  # (N, m, m)
    boxes: tl.tensor,  # (N, 4) float32
    spans: tl.tensor,  # (N, 4) int32
    changes: tl.tensor,  # (N, T) int64, written
    count: tl.tensor,  # (N,) int64, written
    height: tl.tensor,
    threshold: tl.tensor,
    capacity: tl.tensor,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    mask = masks + number * SIDE * SIDE
    box = boxes + number * 4
    x0 = tl.load(spans + number * 4)
    y0 = tl.load(spans + number * 4 + 1)
    x1 = tl.load(spans + number * 4 + 2)
    y1 = tl.load(spans + number * 4 + 3)
    whole = (y0 == 0) & (y1 == height)  # the pixel after the last of a column is the first of the next column
    found = 0
    for x in range(x0, x1):
        # one row more, where the last run of the column ends; the next column does it if it starts there
        rows = y1 + tl.where(whole & (x + 1 < x1), 0, 1)
        for start in range(y0, rows, ROWS):
            y = start + tl.arange(0, ROWS)
            here = _is_set(mask, x, y, box, y0, y1, threshold, SIDE)
            follows = whole & (y == 0) & (x > x0)
            previous_x = tl.where(follows, x - 1, x)
            before = _is_set(mask, previous_x, tl.where(follows, height - 1, y - 1), box, y0, y1, threshold, SIDE)
            change = (here != before) & (y < rows)
            place = found + tl.cumsum(change.to(tl.int32), 0) - 1
            position = (number * 0 + x) * height + y  # int64, as `number`
            tl.store(changes + number * capacity + place, position, mask=change & (place < capacity))
            found += tl.sum(change.to(tl.int32), 0)
    tl.store(count + number, found)
