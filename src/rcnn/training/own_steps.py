"""The steps of augmentation of a run, with the user's own functions."""

from __future__ import annotations

from dataclasses import replace

from rcnn.commands import as_typed
from rcnn.data.transforms import OwnStep, Step
from rcnn.own_code import require_file, same_factory
from rcnn.training.request import RunRequest
from rcnn.training.settings import TrainConfig

KEY = "train.augment"


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
