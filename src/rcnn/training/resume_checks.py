"""Checks before a run is resumed: whether it can be, and that no option or setting contradicts its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnn.commands import as_typed
from rcnn.data import Dataset
from rcnn.data.held_out import HeldOut
from rcnn.models import DetectorConfig
from rcnn.models.overrides import config_from_dict
from rcnn.models.validate import validate
from rcnn.training.found_run import FoundRun, listed, require_no_run, require_writable
from rcnn.training.request import RunRequest
from rcnn.training.run_data import NO_SPLIT
from rcnn.training.settings import TrainConfig
from rcnn.training.starting import NO_WEIGHTS, same_weights

# training settings that cannot change during a run
FIXED_AT_RESUME = ("optimizer", "filter_empty", "lr_factors", "weight_decays", "layer_decay", "best", "metric")


def record_to_resume(request: RunRequest, found: FoundRun) -> dict[str, Any] | None:
    """The record of the run that is resumed, or None for a new run.

    ValueError or PermissionError if neither is possible in the folder.
    """
    output = request.output
    if request.resume and output is None:
        raise ValueError("resume=True (--resume) needs the folder of the run to continue: give it as output (--output)")
    if not found.checkpoints:  # nothing yet, or killed before the first checkpoint: start again
        return found.record if request.resume else None
    if not request.resume:
        require_no_run(request.output or Path(), found.checkpoints)
    require_writable(request.output or Path())
    weights = "last" if "last" in found.checkpoints else found.checkpoints[0]
    start = as_typed("rcnn", "train", f"{output}/{weights}", "--data", request.data_name, "--output", "NEW_RUN")
    if "last" not in found.checkpoints:
        raise ValueError(
            f"{output}/last is missing, so the run cannot be resumed: {listed(found.checkpoints)} does not contain "
            f"the state of the optimizer. Start a new run from its weights: {start}"
        )
    if found.record is None:
        raise ValueError(
            f"{output}/config.json, the record of the run, is missing: restore it, or start a new run from its "
            f"weights: {start}"
        )
    return found.record


def recorded_settings(record: dict[str, Any], output: Path | None) -> tuple[DetectorConfig, TrainConfig]:
    """The settings of the model and of training of the run that is resumed. ValueError if they cannot be used."""
    try:
        config = config_from_dict(record["model"])
        validate(config)
        return config, config_from_dict(record["train"], TrainConfig)
    except ValueError as error:
        raise _unusable(output, error) from error


def _unusable(output: Path | None, error: ValueError) -> ValueError:
    return ValueError(
        f"{output}/config.json, the record of the run, has settings that cannot be used ({error}). Restore it, or "
        f"start a new run from {output}/last with another output (--output)"
    )


def as_recorded(request: RunRequest, record: dict[str, Any]) -> RunRequest:
    """The request with the values of the run that is resumed. ValueError for an option that contradicts them."""
    try:
        held_out = HeldOut.from_dict(record.get("held_out"))
    except ValueError as error:
        raise _unusable(request.output, error) from error
    fraction = "0" if held_out is None else f"{held_out.fraction:g}"
    asked = "" if request.val_fraction is None else f"{request.val_fraction:g}"
    training, *validations = record["splits"]
    evaluated = ", ".join(validations) if held_out is None else ""  # with held-out images, no split
    weights = record.get("weights", "")
    validation = "" if request.validation is None else request.validation.split
    if isinstance(request.data, Dataset) and not validation and validations not in ([], [NO_SPLIT]):
        raise ValueError(
            f"validation is missing: the run in {request.output} is evaluated on {', '.join(validations)}. Pass the "
            "same data set as validation="
        )
    given = {
        "split (--split)": (request.split, training),
        "val_split (--val-split)": (", ".join(request.val_splits), evaluated),
        "validation": (validation, ", ".join(validations)),
        "val_fraction (--val-fraction)": (asked, fraction),
        "annotations (--annotations)": (request.annotations, record["annotations"]),
        "images (--images)": (request.images, record.get("images", "")),
        "relative_boxes (--relative-boxes)": (
            "set" * request.relative_boxes,
            "set" * record.get("relative_boxes", False),
        ),
        "weights (--weights)": (
            "" if same_weights(request.weights, weights) else request.weights,
            weights or NO_WEIGHTS,
        ),
        "recipe (--recipe)": (request.recipe, record.get("recipe", "")),
        "the model": (request.model, record["started_from"]),
    }
    for option, (value, before) in given.items():
        if value and value != before and not _same_path(value, before):
            raise ValueError(
                f"{option} cannot change when a run is resumed: it is {before or 'not set'} in {request.output}, got "
                f"{value}. For a new run, leave resume (--resume) out and choose another output (--output)"
            )
    return replace(
        request,
        model=record["started_from"],
        split=training,
        val_splits=tuple(validations) or (NO_SPLIT,),
        val_fraction=None,
        annotations=record["annotations"],
        images=record.get("images", ""),
        relative_boxes=record.get("relative_boxes", False),
        weights=weights,
        recipe=record.get("recipe", ""),
    )


def require_fixed(before: TrainConfig, settings: TrainConfig, output: Path | None) -> None:
    """ValueError if one of FIXED_AT_RESUME changes."""
    for name in FIXED_AT_RESUME:
        if getattr(settings, name) != getattr(before, name):
            raise ValueError(
                f"train.{name} cannot change when a run is resumed: it is {_shown(getattr(before, name))} in {output}, "
                f"got {_shown(getattr(settings, name))}. Leave it out, or start a new run from {output}/last"
            )


def _shown(value: object) -> str:
    return "not set" if value == "" else str(value)


def _same_path(one: str, other: str) -> bool:
    try:
        return bool(other) and Path(one).resolve() == Path(other).resolve()
    except (ValueError, OSError):  # a null byte in a damaged record, a name that is too long
        return False
