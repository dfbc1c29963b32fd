"""`train.augment` as users give it: names and dicts, steps, and functions of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from rcnn.commands import as_typed
from rcnn.data.transforms import OwnStep, Step
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.own_code import require_file, same_factory
from rcnn.training.request import RunRequest
from rcnn.training.settings import TrainConfig

KEY = "train.augment"
Given = Sequence[str | Mapping[str, Any] | Step | Callable[..., object]]


@dataclass(frozen=True, kw_only=True)
class _Steps:
    augment: tuple[Step, ...] = ()


def as_steps(given: Given) -> tuple[Step, ...]:
    """The steps of a list from Python: "crop", {"kind": "blur", "sigma": [1, 2]}, a step, or a function.

    Raises ValueError for anything else, and for settings that do not exist or are out of range.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"augment is {given!r}; expected a list of steps, e.g. ['crop', my_function]")
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


def with_steps(settings: TrainConfig, request: RunRequest, before: TrainConfig | None) -> TrainConfig:
    """`settings` with the steps that were passed from Python; the user's own functions are imported to check them.

    ValueError if one cannot be imported, or if it is named by the record of the run that is resumed and the user does
    not allow it: a file may have been written by somebody else.
    """
    if request.augment is not None:
        settings = replace(settings, augment=request.augment)
    typed = request.augment is not None or any(one.partition("=")[0].strip() == KEY for one in request.overrides)
    recorded = before is not None and not typed
    steps = [_allowed(step, request) if recorded else step for step in settings.augment]
    for step in steps:
        if isinstance(step, OwnStep):
            if not recorded and step.function is None:
                require_file(step.factory)
            step.resolved()
    return replace(settings, augment=tuple(steps))


def _allowed(step: Step, request: RunRequest) -> Step:
    """A step that the record of a run names, with the path that the user allows."""
    if not isinstance(step, OwnStep):
        return step
    if ":" not in step.factory:
        step.resolved()  # raises the ValueError that asks for the function again
    match = next((entry for entry in request.allow if same_factory(entry, step.factory)), None)
    if match is None:
        raise ValueError(
            f"{request.record_file}: {KEY} names {step.factory}, code that is not part of the run. If you trust it, "
            f"allow it: {as_typed('--allow', step.factory)} on the command line, allow=[{step.factory!r}] in Python"
        )
    return replace(step, factory=match)
