"""Comparison with a tolerance that also records how much of the tolerance was used.

With `RCNN_DEVIATIONS=FILE` every comparison appends one JSON line to FILE; `make test-portable` collects these lines
from several instruction sets and versions of torch into the table of docs/portability.md.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = Tensor | npt.NDArray[Any] | list[float] | float


def assert_within(
    check: str, got: Values, expected: Values, *, atol: float = 0.0, rtol: float = 0.0, fixed: bool = False
) -> None:
    """Assert |got - expected| <= atol + rtol * |expected| for every element; shapes must be equal.

    Args:
        check: the name of the compared quantity in the table, e.g. "proposal boxes".
        fixed: `got` is the same on every CPU, because it was computed in float64 or element by element. Then the
            deviation is the rounding of the stored reference, and a third of the tolerance need not be free.
    """
    ours, theirs = _as_array(got), _as_array(expected)
    assert ours.shape == theirs.shape, f"{check}: expected shape {theirs.shape}, got {ours.shape}"
    deviation, allowed = np.abs(ours - theirs), atol + rtol * np.abs(theirs)
    record(check, float(deviation.max(initial=0)), _largest_ratio(deviation, allowed), _tolerance(atol, rtol), fixed)
    np.testing.assert_allclose(ours, theirs, atol=atol, rtol=rtol, err_msg=check)


def assert_norm_within(check: str, got: Values, expected: Values, limit: float) -> None:
    """Assert |got - expected| <= limit * |expected|, where |x| is the L2 norm over all elements; shapes must be equal.

    For long chains of sums, where the largest of thousands of rounding errors differs from CPU to CPU by a factor of
    two, and their norm by a few percent.
    """
    ours, theirs = _as_array(got), _as_array(expected)
    assert ours.shape == theirs.shape, f"{check}: expected shape {theirs.shape}, got {ours.shape}"
    difference = float(np.linalg.norm(ours - theirs))
    deviation = difference / float(np.linalg.norm(theirs)) if difference else 0.0
    record(check, deviation, deviation / limit, f"{limit:.2g} of the norm")
    assert deviation <= limit, f"{check}: the difference is {deviation:.3g} of the norm, expected at most {limit:.3g}"


def assert_at_most(check: str, deviation: float, limit: float, *, fixed: bool = False) -> None:
    """Assert that a deviation computed by the caller, e.g. the share of mask pixels that differ, is at most `limit`."""
    record(check, deviation, deviation / limit if deviation else 0.0, f"{limit:.2g}", fixed)
    assert deviation <= limit, f"{check}: deviation {deviation:.3g}, expected at most {limit:.3g}"


def record(check: str, deviation: float, used: float, tolerance: str, fixed: bool = False) -> None:
    """Append one comparison to the file that `RCNN_DEVIATIONS` names; `used` is the share of the tolerance, 0 to 1."""
    file = os.environ.get("RCNN_DEVIATIONS")
    if file is None:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]  # "tests/parity/test_a.py::test_b[case]"
    line = {"test": test, "check": check, "deviation": deviation, "used": used, "tolerance": tolerance, "fixed": fixed}
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def _as_array(values: Values) -> npt.NDArray[Any]:
    """The values in double precision, so that the comparison itself rounds nothing."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _largest_ratio(deviation: npt.NDArray[Any], allowed: npt.NDArray[Any]) -> float:
    ratio = np.divide(deviation, allowed, out=np.where(deviation > 0, np.inf, 0.0), where=allowed > 0)
    return float(ratio.max(initial=0))


def _tolerance(atol: float, rtol: float) -> str:
    parts = [f"{atol:.2g}"] if atol or not rtol else []
    parts += [f"{rtol:.2g} x"] if rtol else []
    return " + ".join(parts)
