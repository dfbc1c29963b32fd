"""The plan of a run: everything that is decided and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rcnn.data import Dataset
from rcnn.data.held_out import HeldOut
from rcnn.data.loading import require_masks_to_copy
from rcnn.data.messages import counted
from rcnn.data.skeletons import require_names
from rcnn.data.trained_images import TrainedImages
from rcnn.evaluation.plan import Plan, limit_warnings, measured_kinds, plan_evaluation
from rcnn.models import DetectorConfig
from rcnn.models.overrides import config_to_dict, override
from rcnn.models.own import allow_factories, own_factories
from rcnn.models.setting_tables import settings_table
from rcnn.models.zoo import without_masks
from rcnn.own_code import require_file
from rcnn.preprocess import InputConfig
from rcnn.runtime.devices import choose_device
from rcnn.runtime.processes import Processes, device_of_process, process_numbers
from rcnn.training.advice import Advice, advise_model, advise_training
from rcnn.training.disk_space import DiskSpace, disk_space, require_space
from rcnn.training.found_run import FoundRun, find_run
from rcnn.training.identity import data_identity
from rcnn.training.keypoints import keypoints_of
from rcnn.training.length import LENGTHS, Prefixed, changed_by, keys_of, length_warning, with_length
from rcnn.training.own_steps import with_steps
from rcnn.training.recipes import Recipe, find_recipe
from rcnn.training.recipes.fitting import fitted
from rcnn.training.request import RunRequest
from rcnn.training.resuming import as_recorded, record_to_resume, recorded_settings, require_fixed
from rcnn.training.run_data import RunData, open_run_data, shared_images
from rcnn.training.schedule import require_one_schedule, schedule_warnings
from rcnn.training.settings import PREFIX, TrainConfig, split_overrides, without_auto
from rcnn.training.sharding import require_divisible
from rcnn.training.starting import (
    buildable,
    choose_weights,
    is_whole,
    read_weights,
    size_text,
    starting_config,
    starting_settings,
    starts_fresh,
    to_download,
    with_backbone,
)
from rcnn.training.trackers import chosen_trackers
from rcnn.training.validation import require_measured
from rcnn.weights.catalogue.entry import Entry


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run, decided and checked. `reasons` gives the reason for each value."""

    output: Path | None
    resumes: bool  # continues from output/last
    config: DetectorConfig
    settings: TrainConfig
    data: RunData
    device: torch.device
    processes: Processes  # that train together; not joined yet
    request: RunRequest  # with the values of the run that is resumed
    auto_batch_size: bool  # settings.batch_size is to be replaced by the largest that fits in the memory
    reasons: dict[str, str]  # "data", "split", "val-split", "device", "train.lr", ... -> reason, or "given"
    advised: tuple[str, ...]  # the settings that were chosen from the data, e.g. "input.min_size", "train.steps"
    changed: tuple[str, ...]  # settings that differ from those of the run that is resumed, as KEY: OLD -> NEW
    warnings: tuple[str, ...]
    download: Entry | None  # the weights that the run downloads; `config` then has the model's settings, not the file's
    identity: dict[str, dict[str, Any]]  # of the data, by split; see `data_identity`
    space: DiskSpace  # for the checkpoints
    trained_images: TrainedImages | None  # for evaluations; None: its images are not files

    @property
    def dataset(self) -> Dataset:
        """What the run trains on."""
        return self.data.training

    @property
    def validations(self) -> tuple[Dataset, ...]:
        """What the run is evaluated on; the first chooses best/."""
        return self.data.validations

    @property
    def held_out(self) -> HeldOut | None:
        """Which images of the training split are the validation set."""
        return self.data.held_out

    def about(self) -> dict[str, Any]:
        """Where the run comes from, for config.json and for the provenance of its checkpoints."""
        request = self.request
        about: dict[str, Any] = {"started_from": request.model, "data": str(request.data_name), **self.data.record}
        about |= {"recipe": request.recipe} if request.recipe else {}
        about |= {"annotations": request.annotations, "images": request.images, "weights": request.weights}
        about |= {"relative_boxes": request.relative_boxes, "data_identity": self.identity}
        about |= {} if self.trained_images is None else {"trained_images": self.trained_images.to_dict()}
        return about | {"train": config_to_dict(self.settings)}

    def record(self) -> dict[str, Any]:
        """The contents of config.json."""
        several = {"processes": self.processes.count} if self.processes.count > 1 else {}
        content = {"model": config_to_dict(self.config), **self.about(), "classes": list(self.dataset.classes)}
        return content | several


def settings_of(model: str, overrides: Sequence[str]) -> tuple[TrainConfig, InputConfig]:
    """The training settings and the input of a new run of `model` with `overrides`. ValueError if they are invalid."""
    model_overrides, train_overrides = split_overrides(overrides)
    settings = changed_by(starting_settings(model, overrides=train_overrides), train_overrides)
    return settings, override(starting_config(model), model_overrides).input


def plan_training(
    request: RunRequest, log: Callable[[str], object] = print, *, devices: int = 1, download: bool = True
) -> RunPlan:
    """Decide and check everything about a run; reads files and writes none. `log` receives status messages.

    `devices` is the number of processes that will be started; in one of several processes, a launcher has set it.
    `download`: False for a plan that is only shown: then --weights that are not on this machine are not downloaded. If
    the model itself is the name of weights, they are downloaded nevertheless, because the file contains the config.

    A ValueError or OSError says what is wrong and what to do.
    """
    processes = Processes(count=devices) if devices > 1 else process_numbers()
    found = find_run(request.output) if request.output is not None else FoundRun(record=None, checkpoints=())
    record = record_to_resume(request, found)
    device = device_of_process(choose_device(request.device), processes)
    if record is not None:
        request = as_recorded(request, record)
    overrides, automatic = without_auto(request.overrides)
    request = replace(request, overrides=tuple(overrides))
    recipe = find_recipe(request.recipe) if request.recipe and record is None else None
    typed, train_overrides = split_overrides(request.overrides)
    given = keys_of(train_overrides)
    other_model = recipe is not None and request.model not in ("", recipe.model)
    if recipe is not None and not request.model:
        request = replace(request, model=recipe.model)
    if not download and record is None and not starts_fresh(request.model) and (needed := to_download(request.model)):
        log(
            f"the plan needs the config in {size_text(needed)}, so it is downloaded now; without it: rcnn train "
            f"{needed.model} --weights {needed.name}"
        )
    start, before = _start(request, record)
    left_out = ""
    if recipe is not None and other_model:
        recipe, left_out = fitted(recipe, request.model, start, typed, request.weights)
    own_weights = recipe is not None and bool(recipe.weights) and not request.weights  # those that the recipe names
    if recipe is not None:
        request = replace(request, weights=request.weights or recipe.weights)
    model_overrides = typed if recipe is None else [*recipe.model_settings, *typed]
    why = ""
    if record is None:
        weights, why = choose_weights(request.model, request.weights, start, model_overrides)
        request = replace(request, weights=weights)
    defaults = TrainConfig() if recipe else request.settings
    defaults = defaults or starting_settings(request.model, request.weights, train_overrides)
    first = changed_by(before or defaults, () if recipe is None else recipe.training_settings)
    settings = with_steps(changed_by(first, train_overrides), request, before)
    config = override(start, model_overrides)  # before the data is read, so that an error comes at once
    require_divisible(config, settings)
    require_one_schedule(settings, given)
    chosen_trackers(settings.trackers)  # an error if one is not installed

    data = open_run_data(request, config, record, filter_empty=settings.filter_empty, log=log)
    absent = None if download or record is not None else to_download(request.weights)
    if record is None and is_whole(request.model, request.weights):  # after the data: it may be a download
        start = read_weights(request.weights).config if absent is None else starting_config(absent.model)
    config = _fit_to_data(start, model_overrides, data.training, fresh=record is None)
    _require_outlines(config, data.training)
    require_masks_to_copy(data.training, settings.augment)
    if record is None and absent is None:
        config = with_backbone(config, request.model, request.weights, typed)
        if recipe is not None and own_weights:  # the recipe's input settings, e.g. means, replace those of the file
            config = override(config, [*recipe.input_settings, *typed])
    detector = buildable(config, "" if record is None else request.record_file)
    advises = record is None and recipe is None and request.settings is None
    advice = Advice()
    if advises and request.config is None:
        whole = not starts_fresh(request.model) or is_whole(request.model, request.weights)
        advice = advise_model(config, data.training, _keys(typed), pretrained=whole)
        config = override(config, advice.model)
    evaluations = _evaluation_plans(config, data, settings)

    length = dict[str, str]()
    if before is None or given.intersection(LENGTHS):
        if recipe is not None:
            settings, length = recipe.with_published_batch(settings, processes.count, given)
        settings, reasons = with_length(
            settings,
            images=len(data.training),
            processes=processes.count,
            given=given,
            published=recipe.images_per_step if recipe is not None else 0,
        )
        length |= reasons
    if advises:
        advice = advice.and_also(
            advise_training(
                settings,
                defaults,
                data.training,
                sum(map(len, data.validations)),
                given | ({"augment"} if request.augment is not None else set()),
                min_size=config.input.min_size,
                processes=processes.count,
            )
        )
        settings = replace(settings, **advice.training)
    if before is not None:
        if given.intersection(LENGTHS) and "patience" not in given:  # the user wants these steps
            settings = replace(settings, patience=0)
        require_fixed(before, settings, request.output)
    space = disk_space(detector, settings, request.output)
    return RunPlan(
        output=request.output,
        resumes=record is not None and "last" in found.checkpoints,
        config=config,
        settings=settings,
        auto_batch_size=automatic and before is None,
        data=data,
        device=device,
        processes=processes,
        request=request,
        reasons=data.reasons
        | _setting_reasons(request, first, recipe, resumes=record is not None)
        | {PREFIX + name: reason for name, reason in length.items()}
        | advice.reasons
        | _device_reason(request, device)
        | {"weights": why},
        advised=tuple(advice.reasons),
        changed=() if before is None else (*_changes(start, config), *_changes(Prefixed(before), Prefixed(settings))),
        warnings=(
            *([left_out] if left_out else []),
            *_run_warnings(request, found),
            *require_space(space, request.output),
            *schedule_warnings(settings, given),
            *length_warning(settings, images=len(data.training), processes=processes.count),
            *_images_warning(settings, record, before, processes),
            *shared_images(data),
            *dict.fromkeys(line for dataset in data.every.values() for line in dataset.warnings),
            *(line for evaluation in evaluations for line in evaluation.warnings),
            *_differing_config(request, config, model_overrides, data.training, resumes=record is not None),
        ),
        download=absent,
        identity={split: data_identity(dataset) for split, dataset in data.every.items()},
        space=space,
        trained_images=TrainedImages.of(data.training),
    )


def _keys(words: Sequence[str]) -> set[str]:
    """The keys of KEY=VALUE settings."""
    return {word.partition("=")[0].strip() for word in words}


def _device_reason(request: RunRequest, device: torch.device) -> dict[str, str]:
    if request.device != "auto":
        return {}
    return {"device": "a GPU is available" if device.type != "cpu" else "no GPU is available"}


def _start(request: RunRequest, record: dict[str, Any] | None) -> tuple[DetectorConfig, TrainConfig | None]:
    """The config without the settings in the request, and the training settings of the run that is resumed.

    The user's own code is allowed if a setting or the passed config names it.
    """
    pairs = (one.partition("=") for one in request.overrides)
    written = [value.strip() for key, _, value in pairs if key.strip().endswith(".factory")]
    for path in written:
        require_file(path)
    own = () if request.config is None else own_factories(request.config).values()
    allow = [*request.allow, *written, *own]
    if record is None:
        return request.config or starting_config(request.model, allow), None
    config, before = recorded_settings(record, request.output)
    return allow_factories(config, allow, request.record_file), before


def _differing_config(
    request: RunRequest, config: DetectorConfig, overrides: Sequence[str], dataset: Dataset, *, resumes: bool
) -> list[str]:
    """A warning if the config that was passed differs from the config of the run that is resumed."""
    if request.config is None or not resumes:
        return []
    passed = _fit_to_data(request.config, overrides, dataset, fresh=True)
    changes = [] if request.weights else _changes(config, passed)
    line = f"the run continues with its own config; the one that was passed differs: {'; '.join(changes)}"
    return [line] if changes else []


def _run_warnings(request: RunRequest, found: FoundRun) -> Iterator[str]:
    """Warnings about a request that is allowed, but probably a mistake."""
    if request.resume and not found.checkpoints:
        yield f"{request.output} has no checkpoint to resume from: this is a new run"


def _images_warning(
    settings: TrainConfig, record: Mapping[str, Any] | None, before: TrainConfig | None, processes: Processes
) -> Iterator[str]:
    """A warning if the run that is resumed had another number of images per step."""
    if record is None or before is None:
        return
    images, earlier = settings.images_per_step(processes.count), before.images_per_step(record.get("processes", 1))
    if images != earlier:
        yield (
            f"the run had {counted(earlier, 'image')} per step and now has {images}, so it continues with other "
            "batches and another learning rate. The images per step are train.batch_size x train.accumulate x the "
            "number of processes"
        )


def _setting_reasons(
    request: RunRequest, first: TrainConfig, recipe: Recipe | None, *, resumes: bool
) -> dict[str, str]:
    """The reason for the value of each setting, or "given"; `first`: the settings without those of the user."""
    reasons, defaults = dict[str, str](), TrainConfig()
    for name in config_to_dict(first):
        if resumes:
            reason = f"as recorded in {request.record_file}"
        elif getattr(first, name) == getattr(defaults, name):
            reason = "default"
        else:
            reason = "default of this command" if request.settings else "default for this start"
        reasons[PREFIX + name] = reason
    if recipe is not None:
        reasons |= dict.fromkeys((one.partition("=")[0] for one in recipe.settings), f"recipe {recipe.name}")
    lengths = [name for name in LENGTHS if getattr(first, name) != getattr(defaults, name)]
    if typed := [PREFIX + name for name in keys_of(request.overrides).intersection(LENGTHS)]:  # it replaces the others
        reasons |= dict.fromkeys((PREFIX + name for name in lengths), f"{typed[0]} is given")
    given = _keys(request.overrides)
    given |= {PREFIX + "augment"} if request.augment is not None else set()
    return reasons | dict.fromkeys(given, "given")


def _fit_to_data(start: DetectorConfig, overrides: Sequence[str], dataset: Dataset, *, fresh: bool) -> DetectorConfig:
    """`start` changed by `overrides`, with the classes and (in a new run) the keypoints of `dataset`."""
    keypoint = override(start, overrides).keypoint  # they may turn keypoints on: keypoint={}
    overrides = [one for one in overrides if one.partition("=")[0].strip() != "keypoint"]
    if fresh and keypoint is not None:
        start = replace(start, keypoint=keypoints_of(dataset, keypoint))
    elif keypoint is None or start.keypoint is None:
        start = replace(start, keypoint=keypoint)
    config = override(replace(start, num_classes=len(dataset.classes)), overrides)
    if config.num_classes != len(dataset.classes):
        raise ValueError(
            f"num_classes={config.num_classes}, but {dataset.annotation_file} has "
            f"{counted(len(dataset.classes), 'class')}: leave num_classes out (it is set from the data)"
        )
    return config


def _require_outlines(config: DetectorConfig, dataset: Dataset) -> None:
    """Raise ValueError for a model with masks and a data set with boxes only."""
    if config.has_masks and dataset.num_training_objects and not dataset.has_outlines:
        other = without_masks(config.name)
        raise ValueError(
            f"{dataset.annotation_file} has boxes without outlines, but {config.name} is trained on masks: "
            + (f"train {other}, or " if other else "train a model without masks (`rcnn models list`), or ")
            + "annotate outlines"
        )


def _evaluation_plans(config: DetectorConfig, data: RunData, settings: TrainConfig) -> list[Plan]:
    """What the evaluations of a run measure, one plan per validation set.

    ValueError if the names of keypoints differ from the model's, or if train.best cannot be measured.
    """
    names = () if config.keypoint is None else config.keypoint.names
    for dataset in data.every.values():
        if config.keypoint is not None:
            require_names(dataset, names)
    plans = [
        plan_evaluation(measured_kinds(config), validation, keypoint_names=names, metric=settings.chosen_metric)
        for validation in data.validations
    ]
    require_measured(settings.best, config, plans[0] if plans else None)
    return [
        replace(plan, warnings=plan.warnings + limit_warnings(config, validation, metric=settings.chosen_metric))
        for plan, validation in zip(plans, data.validations, strict=True)
    ]


def _changes(before: Any, now: Any) -> list[str]:
    """The settings that differ, as KEY: OLD -> NEW."""
    old, new = ({setting.path: setting.default for setting in settings_table(value)} for value in (before, now))
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
