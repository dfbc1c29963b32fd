"""Short names for groups of ONNX operators that the translations share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnxscript import ir
from onnxscript import opset18 as op

Value = Any  # a value of the ONNX graph; onnxscript has no exact types for them


def integers(*values: int) -> Value:
    """A constant (n,) int64."""
    return op.Constant(value=ir.tensor(np.array(values, dtype=np.int64)))


def number(value: float) -> Value:
    """A constant () float32."""
    return op.Constant(value=ir.tensor(np.array(value, dtype=np.float32)))


def dimension(value: Value, axis: int) -> Value:
    """The size (1,) int64 of an axis."""
    return op.Shape(value, start=axis, end=axis + 1)


def as_float(value: Value) -> Value:
    """The value in float32."""
    return op.Cast(value, to=ir.DataType.FLOAT)


def as_integer(value: Value) -> Value:
    """The value in int64."""
    return op.Cast(value, to=ir.DataType.INT64)


def scalar(value: Value) -> Value:
    """A value (1,) as ()."""
    return op.Squeeze(value, integers(0))


def count_up(length: Value) -> Value:
    """0, 1, ... (n,) int64, for `length` (1,)."""
    return op.Range(
        op.Constant(value=ir.tensor(np.array(0, dtype=np.int64))),
        scalar(length),
        op.Constant(value=ir.tensor(np.array(1, dtype=np.int64))),
    )


def full(shape: Sequence[Value], value: float | int) -> Value:
    """A tensor of one value: float32 for a float, int64 for an int; `shape` are parts (n,) int64."""
    kind = np.float32 if isinstance(value, float) else np.int64
    return op.ConstantOfShape(op.Concat(*shape, axis=0), value=ir.tensor(np.array([value], dtype=kind)))
