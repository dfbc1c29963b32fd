"""`rcnn::decode_keypoints` on CUDA: one program per heatmap finds its maximum in its box.

As in `rcnn.ops.heatmap_maxima`, only patches that can contain the maximum are interpolated: here, rows of patches with
an upper bound that reaches the best value so far. Letters: R regions, J keypoints, M = R * J heatmaps, m the side of a
heatmap.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CUBIC = tl.constexpr(-0.75)  # as in rcnn.ops.heatmap_maxima
OVERSHOOT = tl.constexpr(0.1875)
SLACK = tl.constexpr(1e-5)
COLUMNS = 128  # pixels of a row at a time


def decode_keypoints(maps: Tensor, boxes: Tensor) -> Tensor:
    """Keypoints (B, D, J, 4) float32, x, y, logit and score, of maps (B, D, J, m, m); see `rcnn.ops.keypoints`."""
    batch, detections, joints, side, _ = maps.shape
    found = torch.zeros((batch, detections, joints, 4), dtype=torch.float32, device=maps.device)
    if found.numel():
        _decode_kernel[(batch * detections * joints,)](
            maps.contiguous(),
            boxes.float().contiguous(),
            maps.float().flatten(3).logsumexp(3),
            found,
            joints,
            SIDE=side,
            PATCHES=triton.next_power_of_2(side + 1),
            SAMPLES=triton.next_power_of_2(side * side),
            COLUMNS=COLUMNS,
            num_warps=2,
        )
    return found


@triton.jit
def _sample(plane: tl.tensor, row: tl.tensor, column: tl.tensor, SIDE: tl.constexpr):
    """The samples in `row` and `column`; beyond the border those of the border."""
    row = tl.minimum(tl.maximum(row, 0), SIDE - 1)
    column = tl.minimum(tl.maximum(column, 0), SIDE - 1)
    return tl.load(plane + row * SIDE + column).to(tl.float32)


@triton.jit
def _weights(share: tl.tensor):
    """The bicubic weights of the samples at -1, 0, 1 and 2 for a point at `share`."""
    a = share + 1.0
    b = 1.0 - share
    c = 2.0 - share
    first = ((CUBIC * a - 5.0 * CUBIC) * a + 8.0 * CUBIC) * a - 4.0 * CUBIC
    second = ((CUBIC + 2.0) * share - (CUBIC + 3.0)) * share * share + 1.0
    third = ((CUBIC + 2.0) * b - (CUBIC + 3.0)) * b * b + 1.0
    fourth = ((CUBIC * c - 5.0 * CUBIC) * c + 8.0 * CUBIC) * c - 4.0 * CUBIC
    return first, second, third, fourth


@triton.jit
def _row_bounds(plane: tl.tensor, row: tl.tensor, column: tl.tensor, SIDE: tl.constexpr):
    """Upper and lower bounds of the values of sample row `row` between samples column - 1 and `column`."""
    a = _sample(plane, row, column - 2, SIDE)
    b = _sample(plane, row, column - 1, SIDE)
    c = _sample(plane, row, column, SIDE)
    d = _sample(plane, row, column + 1, SIDE)
    most = tl.maximum(b, c)
    least = tl.minimum(b, c)
    above = most + OVERSHOOT * tl.maximum(most - tl.minimum(a, d), 0.0)
    below = least - OVERSHOOT * tl.maximum(tl.maximum(a, d) - least, 0.0)
    return above, below


@triton.jit
def _upper_bound(plane: tl.tensor, row: tl.tensor, SIDE: tl.constexpr, PATCHES: tl.constexpr):
    """The upper bound of all values between sample rows row - 1 and `row`."""
    column = tl.arange(0, PATCHES)
    _, first = _row_bounds(plane, row - 2, column, SIDE)
    second, _ = _row_bounds(plane, row - 1, column, SIDE)
    third, _ = _row_bounds(plane, row, column, SIDE)
    _, fourth = _row_bounds(plane, row + 1, column, SIDE)
    most = tl.maximum(second, third)
    bound = most + OVERSHOOT * tl.maximum(most - tl.minimum(first, fourth), 0.0)
    return tl.max(tl.where(column <= SIDE, bound, float("-inf")), 0)


@triton.jit
def _across(
    plane: tl.tensor,
    row: tl.tensor,
    left: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    d: tl.tensor,
    SIDE: tl.constexpr,
):
    """Values interpolated along sample row `row`, with weights a to d of the samples from `left` on."""
    return (
        a * _sample(plane, row, left, SIDE)
        + b * _sample(plane, row, left + 1, SIDE)
        + c * _sample(plane, row, left + 2, SIDE)
        + d * _sample(plane, row, left + 3, SIDE)
    )


@triton.jit
def _decode_kernel(
    maps: tl.tensor,  # (M, m, m)
    boxes: tl.tensor,  # (R, 4) float32
    log_sums: tl.tensor,  # (M,) float32, of exp over each map
    found: tl.tensor,  # (M, 4) float32, written
    joints: tl.tensor,
    SIDE: tl.constexpr,
    PATCHES: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    plane = maps + number * SIDE * SIDE
    box = boxes + number // joints * 4
    width = tl.maximum(tl.load(box + 2) - tl.load(box), 1.0)
    height = tl.maximum(tl.load(box + 3) - tl.load(box + 1), 1.0)
    columns = tl.ceil(width).to(tl.int32)
    rows = tl.ceil(height).to(tl.int32)
    x_step = tl.div_rn(SIDE * 1.0, columns.to(tl.float32))  # samples per pixel
    y_step = tl.div_rn(SIDE * 1.0, rows.to(tl.float32))

    sample = tl.arange(0, SAMPLES)
    real = sample < SIDE * SIDE
    values = tl.load(plane + sample, mask=real, other=0.0).to(tl.float32)
    slack = SLACK * tl.max(tl.abs(values), 0)
    peak = tl.argmax(tl.where(real, values, float("-inf")), 0) // SIDE

    best = float("-inf")
    best_pixel = 0
    # first the rows of patches above and below the largest sample, for a high lower bound; then all rows
    for turn in range(SIDE + 3):
        patch = tl.where(turn < 2, peak + turn, turn - 2)
        if _upper_bound(plane, patch, SIDE, PATCHES) >= best - slack:
            first = tl.maximum(tl.floor((patch - 0.5) / y_step - 0.5).to(tl.int32) - 1, 0)
            last = tl.minimum(tl.ceil((patch + 0.5) / y_step - 0.5).to(tl.int32) + 2, rows)
            for y in range(first, last):
                y_at = (y + 0.5) * y_step - 0.5
                if tl.floor(y_at).to(tl.int32) + 1 == patch:
                    above, upper, lower, below = _weights(y_at - tl.floor(y_at))
                    for start in range(0, columns, COLUMNS):
                        x = start + tl.arange(0, COLUMNS)
                        x_at = (x + 0.5) * x_step - 0.5
                        left = tl.floor(x_at).to(tl.int32) - 1
                        a, b, c, d = _weights(x_at - tl.floor(x_at))
                        value = above * _across(plane, patch - 2, left, a, b, c, d, SIDE)
                        value += upper * _across(plane, patch - 1, left, a, b, c, d, SIDE)
                        value += lower * _across(plane, patch, left, a, b, c, d, SIDE)
                        value += below * _across(plane, patch + 1, left, a, b, c, d, SIDE)
                        value = tl.where(x < columns, value, float("-inf"))
                        highest = tl.max(value, 0)
                        pixel = y * columns + start + tl.argmax(value, 0)
                        better = (highest > best) | ((highest == best) & (pixel < best_pixel))
                        best_pixel = tl.where(better, pixel, best_pixel)
                        best = tl.where(better, highest, best)

    x = ((best_pixel % columns) + 0.5) * tl.div_rn(width, columns.to(tl.float32)) + tl.load(box)
    y = ((best_pixel // columns) + 0.5) * tl.div_rn(height, rows.to(tl.float32)) + tl.load(box + 1)
    score = tl.exp(best - tl.load(log_sums + number))
    score = tl.where(score < float("inf"), score, 0.0)  # also NaN
    tl.store(found + number * 4, x)
    tl.store(found + number * 4 + 1, y)
    tl.store(found + number * 4 + 2, best)
    tl.store(found + number * 4 + 3, score)
