"""The plan of a run: everything that is decided and checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rcnn.data import Dataset, open_dataset
from rcnn.data import splits as splits_of
from rcnn.data.messages import counted
from rcnn.data.skeletons import require_names
from rcnn.evaluation.plan import Plan, measured_kinds, plan_evaluation
from rcnn.models import DetectorConfig
from rcnn.models.describe import describe
from rcnn.models.overrides import config_from_dict, config_to_dict, override
from rcnn.models.own import allow_factories, own_factories
from rcnn.models.validate import validate
from rcnn.runtime.devices import choose_device
from rcnn.training.identity import data_identity
from rcnn.training.keypoints import keypoints_of
from rcnn.training.run_folder import FoundRun, find_run
from rcnn.training.settings import PREFIX, TrainConfig, split_overrides
from rcnn.training.starting import (
    NO_WEIGHTS,
    choose_weights,
    is_whole,
    read_weights,
    require_buildable,
    same_weights,
    starting_config,
    starting_recipe,
    with_backbone,
)
from rcnn.training.validation import require_measured

NO_SPLIT = "none"  # name of the validation split for a run without evaluation
FIXED_AT_RESUME = ("optimizer",)  # training settings that cannot change during a run


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for. Empty strings stand for what was not given."""

    model: str  # a name from `rcnn models list`, or a checkpoint folder; CONFIG and its name for a config
    config: DetectorConfig | None = None  # the user's own, to train from random weights
    data: Path
    output: Path | None = None  # the folder of the run; None: a new runs/train-MODEL-N
    overrides: tuple[str, ...] = ()  # KEY=VALUE settings of the model, and of training with the prefix `train.`
    settings: TrainConfig | None = None  # default training settings, instead of those of `model`
    splits: tuple[str, str] = ("", "")  # training split, validation split
    annotations: str = ""  # annotation file within `data`, as in `open_dataset`
    weights: str = ""  # for a named model: "none", "imagenet", a name or a folder; see `choose_weights`
    device: str = "auto"
    resume: bool = False
    strict: bool = False  # refuse annotation files with faults instead of repairing or skipping them
    allow_empty: bool = False  # accept a split without objects
    allow: tuple[str, ...] = ()  # the user's code that a checkpoint or a resumed run may run; see models/own.py


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run, decided and checked. `reasons` gives the reason for each value."""

    output: Path | None
    resumes: bool  # continues from output/last
    config: DetectorConfig
    settings: TrainConfig
    dataset: Dataset
    validation: Dataset | None  # None: the run is never evaluated
    device: torch.device
    started_from: str
    data: Path
    annotations: str
    weights: str
    reasons: dict[str, str]  # "data", "split", "val-split", "device", "train.lr", ... -> reason, or "given"
    changed: tuple[str, ...]  # settings that differ from those of the run that is resumed, as KEY: OLD -> NEW
    warnings: tuple[str, ...]
    identity: dict[str, dict[str, Any]]  # of the data, by split; see `data_identity`

    def about(self) -> dict[str, Any]:
        """Where the run comes from, for config.json and for the provenance of its checkpoints."""
        validation = NO_SPLIT if self.validation is None else self.validation.split
        about: dict[str, Any] = {"started_from": self.started_from, "data": str(self.data)}
        about |= {"splits": [self.dataset.split, validation], "annotations": self.annotations}
        about |= {"weights": self.weights, "data_identity": self.identity}
        return about | {"train": config_to_dict(self.settings)}

    def record(self) -> dict[str, Any]:
        """The contents of config.json."""
        return {"model": config_to_dict(self.config), **self.about(), "classes": list(self.dataset.classes)}


@dataclass(frozen=True)
class _Recipe:
    """Gives the training settings their prefix, so that an error names `train.steps` as the user wrote it."""

    train: TrainConfig = field(default_factory=TrainConfig)


def plan_training(request: RunRequest) -> RunPlan:
    """Decide and check everything about a run; reads files and writes none.

    A ValueError or OSError says what is wrong and what to do.
    """
    require_one_process()
    found = find_run(request.output) if request.output is not None else FoundRun(record=None, checkpoints=())
    record = _record_to_resume(request, found)
    if record is not None:
        request = _as_recorded(request, record)
    model_words, train_words = split_overrides(request.overrides)
    start, before = _start(request, record)
    why = ""
    if record is None:
        weights, why = choose_weights(request.model, request.weights, start, model_words)
        request = replace(request, weights=weights)
        start = read_weights(weights).config if is_whole(request.model, weights) else start
    recipe = before or request.settings or starting_recipe(request.model, request.weights)
    settings = override(_Recipe(recipe), train_words).train

    config = override(start, model_words)  # before the data: a wrong word is refused at once
    dataset, validation, reasons = _open_data(request, config, record)
    reasons |= _setting_reasons(request, settings, recipe, resumes=record is not None) | {"weights": why}
    config = _fit_to_data(start, model_words, dataset, fresh=record is None)
    if record is None:
        config = with_backbone(config, request.model, request.weights, model_words)
    for known in (dataset, validation):
        if config.keypoint is not None and known is not None:
            require_names(known, config.keypoint.names)
    require_buildable(config, "" if record is None else _record_file(request))
    evaluation = _evaluation_plan(config, validation, settings.chosen_metric)
    require_measured(settings.best, config, evaluation)

    changed = [] if before is None else _changes(start, config) + _changes(_Recipe(before), _Recipe(settings))
    if before is not None:
        for name in FIXED_AT_RESUME:
            if getattr(settings, name) != getattr(before, name):
                raise ValueError(
                    f"train.{name} cannot change when a run is resumed: it is {getattr(before, name)} in "
                    f"{request.output}, got {getattr(settings, name)}. Leave it out, or start a new run from "
                    f"{request.output}/last"
                )
    device = choose_device(request.device)
    if request.device == "auto":
        reasons["device"] = "a GPU is available" if device.type != "cpu" else "no GPU is available"
    known = {known.split: known for known in (dataset, validation) if known is not None}
    return RunPlan(
        output=request.output,
        resumes=record is not None and "last" in found.checkpoints,
        config=config,
        settings=settings,
        dataset=dataset,
        validation=validation,
        device=device,
        started_from=request.model,
        data=request.data,
        annotations=request.annotations,
        weights=request.weights,
        reasons=reasons,
        changed=tuple(changed),
        warnings=(
            *_run_warnings(request, settings, found),
            *(line for dataset in known.values() for line in dataset.warnings),
            *(() if evaluation is None else evaluation.warnings),
            *_differing_config(request, config, model_words, dataset, resumes=record is not None),
        ),
        identity={split: data_identity(dataset) for split, dataset in known.items()},
    )


def _open_data(
    request: RunRequest, config: DetectorConfig, record: dict[str, Any] | None
) -> tuple[Dataset, Dataset | None, dict[str, str]]:
    """The training and validation data, and the reasons for their splits.

    A ValueError or OSError about the data of a run that is resumed names the record that they come from.
    """
    opened = partial(
        open_dataset,
        request.data,
        keypoints=config.keypoint is not None,
        one_class=config.proposals_only,
        annotations=request.annotations,
        strict=request.strict,
        allow_empty=request.allow_empty,
    )
    try:
        splits, reasons = choose_splits(request.data, request.splits, request.annotations)
        dataset = opened(splits[0], classes=None if record is None else record["classes"])
        validation = opened(splits[1], classes=dataset.classes) if splits[1] != NO_SPLIT else None
    except (ValueError, OSError) as error:
        if record is None:
            raise
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else error
        raise ValueError(
            f"{reason}\nThe splits, annotations and classes of this run are those in {_record_file(request)}"
        ) from error
    return dataset, validation, reasons


def _record_file(request: RunRequest) -> str:
    return f"{request.output}/config.json"


def _start(request: RunRequest, record: dict[str, Any] | None) -> tuple[DetectorConfig, TrainConfig | None]:
    """The config before the settings in the request, and the training settings of the run that is resumed.

    The user's own code is allowed where a setting or the passed config names it.
    """
    words = (word.partition("=") for word in request.overrides)
    written = [value.strip() for key, _, value in words if key.strip().endswith(".factory")]
    own = () if request.config is None else own_factories(request.config).values()
    allow = [*request.allow, *written, *own]
    if record is None:
        return request.config or starting_config(request.model, allow), None
    config, before = _recorded(record, request.output)
    return allow_factories(config, allow, f"{request.output}/config.json"), before


def _differing_config(
    request: RunRequest, config: DetectorConfig, words: Sequence[str], dataset: Dataset, *, resumes: bool
) -> list[str]:
    """A warning if the config that was passed is not that of the run that is resumed."""
    if request.config is None or not resumes:
        return []
    passed = _fit_to_data(request.config, words, dataset, fresh=True)
    changes = [] if request.weights else _changes(config, passed)
    line = f"the run continues with its own config; the one that was passed differs: {'; '.join(changes)}"
    return [line] if changes else []


def _run_warnings(request: RunRequest, settings: TrainConfig, found: FoundRun) -> Iterator[str]:
    """What is allowed, but probably not meant."""
    if request.resume and not found.checkpoints:
        yield f"{request.output} has no checkpoint to resume from: this is a new run"
    if settings.warmup_steps >= settings.steps:
        yield (
            f"train.warmup_steps={settings.warmup_steps} is not less than train.steps={settings.steps}: the learning "
            "rate never reaches its value. Set train.warmup_steps to a small part of train.steps"
        )


def require_one_process() -> None:
    """ValueError if a launcher such as torchrun started several processes."""
    world = os.environ.get("WORLD_SIZE", "").strip()
    if world not in ("", "1"):
        raise ValueError(
            f"WORLD_SIZE={world}: training with several processes is not supported yet. Start `rcnn train` directly, "
            "without torchrun (or unset WORLD_SIZE)"
        )


def _record_to_resume(request: RunRequest, found: FoundRun) -> dict[str, Any] | None:
    """The record of the run that is resumed, or None for a new run. ValueError if the folder allows neither."""
    output = request.output
    if request.resume and output is None:
        raise ValueError("resume=True (--resume) needs the folder of the run to continue: give it as output (--output)")
    if not found.checkpoints:  # nothing yet, or killed before the first checkpoint: start again
        return found.record if request.resume else None
    if not request.resume:
        raise ValueError(
            f"{output} contains a run ({_listed(found.checkpoints)}): continue it with resume=True (--resume), or "
            "choose another output (--output)"
        )
    if "last" not in found.checkpoints:
        raise ValueError(
            f"{output}/last is missing, so the run cannot be resumed: {_listed(found.checkpoints)} does not contain "
            f"the state of the optimizer. Start a new run from its weights: rcnn train "
            f"{output}/{found.checkpoints[0]} --data {request.data} --output NEW_RUN"
        )
    if found.record is None:
        raise ValueError(
            f"{output}/config.json, the record of the run, is missing: restore it, or start a new run from its "
            f"weights: rcnn train {output}/last --data {request.data} --output NEW_RUN"
        )
    return found.record


def _recorded(record: dict[str, Any], output: Path | None) -> tuple[DetectorConfig, TrainConfig]:
    """The settings of the model and of training of the run that is resumed."""
    try:
        config = config_from_dict(record["model"])
        validate(config)
        return config, config_from_dict(record["train"], TrainConfig)
    except ValueError as error:
        raise ValueError(
            f"{output}/config.json, the record of the run, has settings that cannot be used ({error}). Restore it, or "
            f"start a new run from {output}/last with another --output"
        ) from error


def _as_recorded(request: RunRequest, record: dict[str, Any]) -> RunRequest:
    """The request with the values of the run that is resumed. ValueError for an option that contradicts them."""
    weights = record.get("weights", "")
    given = {
        "--split": (request.splits[0], record["splits"][0]),
        "--val-split": (request.splits[1], record["splits"][1]),
        "--annotations": (request.annotations, record["annotations"]),
        "--weights": ("" if same_weights(request.weights, weights) else request.weights, weights or NO_WEIGHTS),
        "MODEL": (request.model, record["started_from"]),
    }
    for option, (value, before) in given.items():
        if value and value != before and not _same_path(value, before):
            raise ValueError(
                f"{option} cannot change when a run is resumed: it is {before or 'not set'} in {request.output}, got "
                f"{value}. For a new run, leave resume (--resume) out and choose another output (--output)"
            )
    first, second = record["splits"]
    return replace(
        request,
        model=record["started_from"],
        splits=(first, second),
        annotations=record["annotations"],
        weights=weights,
    )


def _same_path(one: str, other: str) -> bool:
    return bool(other) and Path(one).resolve() == Path(other).resolve()


def choose_splits(data: Path, given: tuple[str, str], annotations: str = "") -> tuple[tuple[str, str], dict[str, str]]:
    """The training and the validation split (NO_SPLIT: none), and the reasons for those that were not given."""
    names, reasons = splits_of(data, annotations), dict[str, str]()
    train, validation = given
    if not train:
        named = [name for name in names if name.startswith("train")]
        if not named and len(names) != 1:
            raise ValueError(
                f"{data} has the splits {', '.join(names)}; none starts with 'train'. Choose one with --split"
            )
        train = (named or names)[0]
        reasons["split"] = "its name starts with 'train'" if named else "the only split"
    if not validation:
        validation = next((name for name in names if name.startswith("val") and name != train), NO_SPLIT)
        reasons["val-split"] = "its name starts with 'val'" if validation != NO_SPLIT else "no split starts with 'val'"
    return (train, validation), reasons


def _setting_reasons(
    request: RunRequest, settings: TrainConfig, recipe: TrainConfig, *, resumes: bool
) -> dict[str, str]:
    """Why each training setting has its value, and which settings the user gave."""
    reasons, defaults = dict[str, str](), TrainConfig()
    for name in config_to_dict(settings):
        if resumes:
            reason = f"as recorded in {request.output}/config.json"
        elif getattr(recipe, name) == getattr(defaults, name):
            reason = "default"
        else:
            reason = "default of this command" if request.settings else "default for a checkpoint"
        reasons[PREFIX + name] = reason
    given = {word.partition("=")[0].strip() for word in request.overrides}
    return reasons | dict.fromkeys(given, "given")


def _fit_to_data(start: DetectorConfig, words: Sequence[str], dataset: Dataset, *, fresh: bool) -> DetectorConfig:
    """`start` changed by `words`, with the classes and (in a new run) the keypoints of `dataset`."""
    keypoint = override(start, words).keypoint  # the words may turn keypoints on: keypoint={}
    words = [word for word in words if word.partition("=")[0].strip() != "keypoint"]
    if fresh and keypoint is not None:
        start = replace(start, keypoint=keypoints_of(dataset, keypoint))
    elif keypoint is None or start.keypoint is None:
        start = replace(start, keypoint=keypoint)
    config = override(replace(start, num_classes=len(dataset.classes)), words)
    if config.num_classes != len(dataset.classes):
        raise ValueError(
            f"num_classes={config.num_classes}, but {dataset.annotation_file} has "
            f"{counted(len(dataset.classes), 'class')}: leave num_classes out (it is set from the data)"
        )
    return config


def _evaluation_plan(config: DetectorConfig, validation: Dataset | None, metric: str) -> Plan | None:
    """What the evaluations of a run measure; None without a validation set."""
    if validation is None:
        return None
    names = () if config.keypoint is None else config.keypoint.names
    return plan_evaluation(measured_kinds(config), validation, keypoint_names=names, metric=metric)


def _changes(before: Any, now: Any) -> list[str]:
    """The settings that differ, as KEY: OLD -> NEW."""
    old, new = ({setting.path: setting.default for setting in describe(value)} for value in (before, now))
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in names)
