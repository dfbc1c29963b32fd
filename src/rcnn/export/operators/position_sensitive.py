"""`rcnn::ps_roi_pool` as ONNX operators.

Letters: B images, R regions, C channels of the result, k groups per side, s cells per side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnxscript import ir
from onnxscript import opset18 as op

from rcnn.export.operators.build import Value, as_integer, count_up, dimension, integers, number
from rcnn.ops.ps_roi import SMALLEST


class Limits(NamedTuple):
    """First point, and one past the last, (B, R, s) int64, of each cell along one axis."""

    low: Value
    high: Value


def ps_roi_pool(maps: Value, boxes: Value, valid: Value, scale: float, groups: int, size: int, rounded: bool) -> Value:
    """Means (B, R, C, s, s) of the points that each cell of a region covers; see `rcnn.ops.ps_roi`."""
    batch, height, width = dimension(maps, 0), dimension(maps, 2), dimension(maps, 3)
    channels = op.Div(dimension(maps, 1), integers(groups**2))
    table = _table(maps, channels, groups)
    x1, y1, x2, y2 = op.Split(boxes, axis=2, num_outputs=4)  # (B, R, 1) each
    down = _cell_limits(y1, y2, scale, size, rounded, height)
    across = _cell_limits(x1, x2, scale, size, rounded, width)
    lines = [
        _line(table, _of_row(down, row), across, valid, (row * groups // size, groups, size), (batch, height, width))
        for row in range(size)
    ]  # (B, R, s, C) each
    pooled = op.Concat(*(op.Unsqueeze(line, integers(2)) for line in lines), axis=2)  # (B, R, s, s, C)
    return op.CastLike(op.Transpose(pooled, perm=[0, 1, 4, 2, 3]), maps)


def _table(maps: Value, channels: Value, groups: int) -> Value:
    """Sums (B * k * k * (H + 1) * (W + 1), C) float64 of all values above and left of each point, for every group."""
    shape = op.Concat(dimension(maps, 0), channels, integers(groups**2), op.Shape(maps, start=2, end=4), axis=0)
    grouped = op.Transpose(op.Reshape(maps, shape), perm=[0, 2, 3, 4, 1])  # (B, k * k, H, W, C)
    sums = op.CumSum(op.CumSum(_as_double(grouped), _axis(2)), _axis(3))
    padded = op.Pad(sums, integers(0, 0, 1, 1, 0, 0, 0, 0, 0, 0), _double(0.0))
    return op.Reshape(padded, op.Concat(integers(-1), channels, axis=0))


def _cell_limits(start: Value, end: Value, scale: float, size: int, rounded: bool, length: Value) -> Limits:
    """The limits of the cells of boxes with `start` and `end` (B, R, 1) along an axis of `length` (1,) cells.

    Computed in float32 where borders are rounded and in float64 elsewhere, as in the op.
    """
    kind = ir.DataType.FLOAT if rounded else ir.DataType.DOUBLE
    if rounded:
        start, end = (op.Mul(op.Floor(op.Add(op.Abs(value), number(0.5))), op.Sign(value)) for value in (start, end))

    def constant(value: float) -> Value:
        return op.Cast(_double(value), to=kind)

    start, end = (op.Mul(op.Cast(value, to=kind), constant(scale)) for value in (start, end))
    step = op.Div(op.Max(op.Sub(end, start), constant(SMALLEST)), constant(float(size)))
    cells = op.Cast(count_up(integers(size)), to=kind)  # (s,)
    low = op.Floor(op.Add(op.Mul(cells, step), start))
    high = op.Ceil(op.Add(op.Mul(op.Add(cells, constant(1.0)), step), start))
    limit = op.Cast(op.Squeeze(length, integers(0)), to=kind)
    return Limits(*(as_integer(op.Clip(value, constant(0.0), limit)) for value in (low, high)))


def _of_row(down: Limits, row: int) -> Limits:
    """The limits (B, R, 1) of the cells in one row."""
    return Limits(*(op.Gather(value, integers(row), axis=2) for value in down))


def _line(
    table: Value,
    down: Limits,
    across: Limits,
    valid: Value,
    cells: tuple[int, int, int],
    sides: tuple[Value, Value, Value],
) -> Value:
    """The means (B, R, s, C) of one row of cells: group row, groups k and cells s; sides B, H and W of the maps."""
    (group_row, groups, size), (batch, height, width) = cells, sides
    columns = np.arange(size) * groups // size + group_row * groups  # the group of each cell
    image = op.Unsqueeze(op.Mul(count_up(batch), integers(groups**2)), integers(1, 2))  # (B, 1, 1)
    plane = op.Mul(op.Add(image, op.Constant(value=ir.tensor(columns.astype(np.int64)))), op.Add(height, integers(1)))

    def corner(row: Value, column: Value) -> Value:
        place = op.Add(op.Mul(op.Add(plane, row), op.Add(width, integers(1))), column)  # (B, R, s)
        return op.Gather(table, place, axis=0)  # (B, R, s, C)

    first, above = corner(down.low, across.low), corner(down.low, across.high)
    left, last = corner(down.high, across.low), corner(down.high, across.high)
    nothing = integers(0)
    area = op.Mul(
        op.Max(op.Sub(down.high, down.low), nothing), op.Max(op.Sub(across.high, across.low), nothing)
    )  # (B, R, s)
    used = op.And(op.Greater(area, nothing), op.Unsqueeze(valid, integers(2)))
    share = op.Where(used, op.Div(_double(1.0), _as_double(op.Max(area, integers(1)))), _double(0.0))
    total = op.Add(op.Sub(op.Sub(last, above), left), first)
    return op.Cast(op.Mul(total, op.Unsqueeze(share, integers(3))), to=ir.DataType.FLOAT)


def _double(value: float) -> Value:
    return op.Constant(value=ir.tensor(np.array(value, dtype=np.float64)))


def _as_double(value: Value) -> Value:
    return op.Cast(value, to=ir.DataType.DOUBLE)


def _axis(number: int) -> Value:
    return op.Constant(value=ir.tensor(np.array(number, dtype=np.int64)))
