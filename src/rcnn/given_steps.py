"""Lists of augmentation steps as users give them in Python: names and dicts, steps, and functions of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from rcnn.arguments import ArgumentTypeError
from rcnn.data.transforms import OwnStep, Step
from rcnn.models.overrides import config_from_dict, config_to_dict

Given = Sequence[str | Mapping[str, Any] | Step | Callable[..., object]]


@dataclass(frozen=True, kw_only=True)
class _Steps:
    augment: tuple[Step, ...] = ()


def as_steps(given: Given) -> tuple[Step, ...]:
    """The steps of a list from Python: "crop", {"kind": "blur", "sigma": [1, 2]}, a step, or a function.

    Raises ValueError for anything else, and for settings that do not exist or are out of range.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentTypeError(f"augment is {given!r}; expected a list of steps, e.g. ['crop', my_function]")
    steps = [_own(item) for item in given]
    plain = [config_to_dict(item) if isinstance(item, get_args(Step)) else item for item in steps]
    built = config_from_dict({"augment": plain}, _Steps).augment
    return tuple(item if isinstance(item, OwnStep) else step for item, step in zip(steps, built, strict=True))


def _own(item: Any) -> Any:
    """A function as a step; anything else as it is."""
    if isinstance(item, get_args(Step)) or not callable(item):
        return item
    if isinstance(item, functools.partial) and not item.args:
        return replace(OwnStep.of(item.func), arguments=dict(item.keywords))
    return OwnStep.of(item)
