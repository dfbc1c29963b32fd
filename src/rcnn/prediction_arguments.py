"""The values of arguments of predictions: lowest scores and whole numbers, checked with one message each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from rcnn.arguments import ArgumentTypeError
from rcnn.data.image_inputs import require_channels

Score: TypeAlias = float | Mapping[str, float]  # the lowest score that is kept: of all classes, or by class name


def require_score(score: float) -> float:
    """`score`; a ValueError unless it is a number from 0 to 1."""
    if not isinstance(score, Real):
        raise ArgumentTypeError(f"score={score!r}; expected a number from 0 to 1")
    if not 0 <= score <= 1:
        raise ValueError(f"score={score!r}; expected a number from 0 to 1")
    return score


def lowest_score(score: Score, classes: Sequence[str]) -> float:
    """The lowest score that is kept of any of the `classes` of the model; 0 if `score` names only some of them."""
    if not isinstance(score, Mapping):
        return float(score)
    return float(min((score.get(name, 0.0) for name in classes), default=0.0))


def is_whole_number(value: object) -> TypeGuard[int | np.integer[Any]]:
    """Whether `value` is an integer of Python or numpy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_number(name: str, value: object, expected: str, least: int = 1) -> int:
    """The argument `name` as an int; a ValueError, ending in `expected`, unless it is an integer from `least` on."""
    if not is_whole_number(value):
        raise ArgumentTypeError(f"{name}={value!r}; expected {expected}")
    if value < least:
        raise ValueError(f"{name}={value!r}; expected {expected}")
    return int(value)


def check_arguments(
    score: Score, boxes: object | None, labels: object | None, channels: str, batch_size: int, errors: str
) -> None:
    """Raise ValueError for arguments of `predict` that are out of range or contradict each other."""
    scores = score.values() if isinstance(score, Mapping) else (score,)
    for lowest in scores:
        require_score(lowest)
    if boxes is not None and any(scores):
        raise ValueError(f"score={score} would drop rows, but boxes= returns one row per box; leave score out")
    if labels is not None and boxes is None:
        raise ValueError("labels= are the classes of given boxes, but boxes= is missing; pass boxes=, too")
    if errors not in ("raise", "return"):
        raise ValueError(f"errors={errors!r} is not known; expected 'raise' or 'return'")
    require_channels(channels)
    whole_number("batch_size", batch_size, "1 or more")
