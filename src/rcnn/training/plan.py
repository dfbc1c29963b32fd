"""The plan of a run: everything that is decided and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rcnn.data import Dataset
from rcnn.data.held_out import HeldOut
from rcnn.data.identity import data_identity
from rcnn.data.messages import counted
from rcnn.data.trained_images import TrainedImages
from rcnn.data.transforms import OwnStep
from rcnn.models import DetectorConfig, model_config
from rcnn.models.overrides import config_to_dict
from rcnn.models.own import own_factories
from rcnn.models.setting_tables import settings_table
from rcnn.models.unused_settings import override_used
from rcnn.models.zoo import MODELS
from rcnn.preprocess import InputConfig
from rcnn.runtime.devices import choose_device
from rcnn.runtime.launch import typed_command
from rcnn.runtime.processes import Processes, device_of_process, process_numbers, processes_here
from rcnn.threads import available_cores
from rcnn.training.advice import Advice, advise_training, advise_workers
from rcnn.training.chosen_start import Start, choose_start, setting_keys
from rcnn.training.disk_space import DiskSpace, disk_space, require_space
from rcnn.training.fitted_model import FittedModel, fit_model, fit_to_data
from rcnn.training.found_run import LOG, FoundRun, find_run
from rcnn.training.length import LENGTHS, Prefixed, changed_by, keys_of, length_warning, with_length, with_rest
from rcnn.training.log import seconds_per_step
from rcnn.training.output_place import output_warnings, require_output_apart
from rcnn.training.parameter_groups import require_parameters
from rcnn.training.request import RunRequest
from rcnn.training.resume_checks import record_to_resume, require_fixed
from rcnn.training.run_data import RunData, misspelt_classes, shared_images
from rcnn.training.schedule import schedule_warnings
from rcnn.training.settings import PREFIX, TrainConfig, split_overrides
from rcnn.training.starting import starting_config, starting_settings, starts_fresh
from rcnn.training.state import steps_done
from rcnn.weights.catalogue.entry import Entry

DEFAULT = "default"  # the reason for a setting that has the default of training


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
    extra_images: int  # that the steps so far had in addition to the present number of images per step
    identity: dict[str, dict[str, Any]]  # of the data, by split; see `data_identity`
    space: DiskSpace  # for the checkpoints
    trained_images: TrainedImages | None  # for evaluations; None: its images are not files
    commands: tuple[str, ...]  # that started and resumed the run, each once

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

    @property
    def own_code(self) -> tuple[str, ...]:
        """The user's code that the run imports, FILE.py:NAME or PACKAGE.MODULE:NAME: of the model, of train.augment."""
        steps = [step.factory for step in self.settings.augment if isinstance(step, OwnStep)]
        return (*own_factories(self.config).values(), *(step for step in steps if ":" in step))

    def about(self) -> dict[str, Any]:
        """Where the run comes from, for config.json and for the provenance of its checkpoints."""
        request = self.request
        about: dict[str, Any] = {"started_from": request.model, **request.places}
        about |= self.data.record | ({"dataset_given": True} if isinstance(request.data, Dataset) else {})
        about |= {"recipe": request.recipe} if request.recipe else {}
        about |= {"annotations": request.annotations, "weights": request.weights}
        about |= {"relative_boxes": request.relative_boxes, "data_identity": self.identity}
        about |= {} if self.trained_images is None else {"trained_images": self.trained_images.to_dict()}
        return about | {"train": config_to_dict(self.settings)}

    def record(self) -> dict[str, Any]:
        """The contents of config.json."""
        several = {"processes": self.processes.count} if self.processes.count > 1 else {}
        content = {"model": config_to_dict(self.config), **self.about(), "classes": list(self.dataset.classes)}
        content |= {"commands": list(self.commands)}
        return content | several | ({"extra_images": self.extra_images} if self.extra_images else {})


def settings_of(model: str, overrides: Sequence[str], allow: Sequence[str] = ()) -> tuple[TrainConfig, InputConfig]:
    """The training settings and the input of a new run of `model` with `overrides`.

    `allow`: the user's code that a checkpoint may run. ValueError if the settings are invalid.
    """
    model_overrides, train_overrides = split_overrides(overrides)
    settings = changed_by(starting_settings(model, overrides=train_overrides), train_overrides)
    return settings, override_used(starting_config(model, allow), model_overrides).input


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
    require_output_apart(request, found)
    record = record_to_resume(request, found)
    device = device_of_process(choose_device(request.device), processes)
    start = choose_start(request, record, log, download=download)
    model = fit_model(start, log, download=download)
    require_output_apart(request, found, model.data)
    chosen = _choose_length(start, model, processes, found)
    chosen = _with_workers(chosen, start, device, devices if devices > 1 else processes_here(processes.count))
    require_parameters(model.detector, chosen.settings)
    space = disk_space(model.detector, chosen.settings, start.request.output)
    return RunPlan(
        output=start.request.output,
        resumes=not start.is_new and "last" in found.checkpoints,
        config=model.config,
        settings=chosen.settings,
        auto_batch_size=start.automatic and start.before is None,
        data=model.data,
        device=device,
        processes=processes,
        request=start.request,
        reasons=_model_reasons(start, model.config)
        | model.data.reasons
        | _setting_reasons(start)
        | {PREFIX + name: reason for name, reason in chosen.reasons.items()}
        | chosen.advice.reasons
        | _device_reason(start.request, device)
        | {"weights": start.reason},
        advised=tuple(chosen.advice.reasons),
        changed=_changed_settings(start, model, chosen.settings),
        warnings=tuple(_warnings(start, model, chosen.settings, processes, found, space)),
        download=model.absent,
        extra_images=chosen.extra_images,
        identity={split: data_identity(dataset) for split, dataset in model.data.every.items()},
        space=space,
        trained_images=TrainedImages.of(model.data.training),
        commands=_commands(record),
    )


def _commands(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The commands of the run in `record` and that of this process."""
    earlier = () if record is None else map(str, record.get("commands", ()))
    return tuple(dict.fromkeys((*earlier, typed_command())))


@dataclass(frozen=True, kw_only=True)
class _Length:
    """The training settings of a run, complete."""

    settings: TrainConfig
    reasons: dict[str, str]  # setting -> why it has its value, apart from the advice
    advice: Advice  # on the settings of model and training
    extra_images: int  # as in RunPlan


def _choose_length(start: Start, model: FittedModel, processes: Processes, found: FoundRun) -> _Length:
    """The length of a run, its learning rate, and what is advised for its data.

    ValueError for a setting that the run that is resumed fixes.
    """
    settings, given, recipe, before = start.settings, start.given, start.recipe, start.before
    training, reasons = model.data.training, dict[str, str]()
    if before is None or given.intersection(LENGTHS):
        if recipe is not None:
            settings, reasons = recipe.with_published_batch(settings, processes.count, given)
        settings, more = with_length(
            settings,
            images=len(training),
            processes=processes.count,
            given=given,
            published=recipe.images_per_step if recipe is not None else 0,
        )
        reasons |= more
        if recipe is not None:
            settings, more = recipe.with_evaluations(
                settings, images=len(training), processes=processes.count, given=given
            )
            reasons |= more
    each, extra = settings.images_per_step(processes.count), 0
    if before is not None and start.record is not None and "last" in found.checkpoints:
        earlier = before.images_per_step(start.record.get("processes", 1))
        extra = start.record.get("extra_images", 0)
        if each != earlier or extra:
            done = steps_done(start.request.output or Path())
            extra += done * (earlier - each)
            if not given.isdisjoint(("epochs", "schedule")):
                done_images = done * each + extra
                settings, more = with_rest(
                    settings, done=done, done_images=done_images, images=len(training), each=each
                )
                reasons |= more
    advice = model.advice
    if start.is_advised:
        advice = advice.and_also(
            advise_training(
                settings,
                start.defaults,
                training,
                sum(map(len, model.data.validations)),
                given | ({"augment"} if start.request.augment is not None else set()),
                min_size=model.config.input.min_size,
                processes=processes.count,
            )
        )
        settings = replace(settings, **advice.training)
    if before is not None:
        if given.intersection(LENGTHS) and "patience" not in given:  # the user wants these steps
            settings = replace(settings, patience=0)
        require_fixed(before, settings, start.request.output)
    return _Length(settings=settings, reasons=reasons, advice=advice, extra_images=extra)


def _with_workers(chosen: _Length, start: Start, device: torch.device, processes: int) -> _Length:
    """`chosen` with as many workers as suit this machine, in a new run on a GPU, if nobody gave their number.

    `processes`: that train on this machine.
    """
    if device.type == "cpu" or not start.is_new or start.request.settings is not None or "workers" in start.given:
        return chosen
    workers, reason = advise_workers(available_cores(), processes)
    settings = replace(chosen.settings, workers=workers)
    return replace(chosen, settings=settings, reasons=chosen.reasons | {"workers": reason})


def _changed_settings(start: Start, model: FittedModel, settings: TrainConfig) -> tuple[str, ...]:
    """The settings that differ from those of the run that is resumed, as KEY: OLD -> NEW."""
    if start.before is None:
        return ()
    return (*_changes(model.base, model.config), *_changes(Prefixed(start.before), Prefixed(settings)))


def _warnings(
    start: Start, model: FittedModel, settings: TrainConfig, processes: Processes, found: FoundRun, space: DiskSpace
) -> Iterator[str]:
    """All warnings about a run; OSError if its checkpoints do not fit on the disk."""
    request, data = start.request, model.data
    if start.recipe_warning:
        yield start.recipe_warning
    yield from output_warnings(request, found, data)
    yield from require_space(space, request.output)
    yield from schedule_warnings(settings, start.given)
    pace = partial(seconds_per_step, (request.output or Path()) / LOG)
    yield from length_warning(settings, images=len(data.training), processes=processes.count, pace=pace)
    yield from _images_warning(settings, start.record, start.before, processes)
    yield from shared_images(data)
    yield from misspelt_classes(data)
    yield from _dataset_warnings(data)
    validations = [one.split for one in data.validations]
    yield from _with_splits([*zip(validations, (plan.warnings for plan in model.evaluations), strict=True)])
    yield from _differing_config(start, model)


def _dataset_warnings(data: RunData) -> Iterator[str]:
    """The warnings of the data sets; those with the same annotation file name the split."""
    groups: dict[Path, list[tuple[str, Sequence[str]]]] = {}
    for name, dataset in data.every.items():
        groups.setdefault(dataset.annotation_file, []).append((name, dataset.warnings))
    for group in groups.values():
        yield from _with_splits(group)


def _with_splits(groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Each line of the groups (split, lines) once; a line that is not in all groups starts with its splits."""
    splits: dict[str, list[str]] = {}
    for name, lines in groups:
        for line in dict.fromkeys(lines):
            splits.setdefault(line, []).append(name)
    for line, names in splits.items():
        named = f"split{'' if len(names) == 1 else 's'} {' and '.join(names)}"
        yield line if len(names) == len(groups) else f"{named}: {line}"


def _device_reason(request: RunRequest, device: torch.device) -> dict[str, str]:
    if request.device != "auto":
        return {}
    return {"device": "a GPU is available" if device.type != "cpu" else "no GPU is available"}


def _differing_config(start: Start, model: FittedModel) -> list[str]:
    """A warning if the config that was passed differs from the config of the run that is resumed."""
    passed = start.request.config
    if passed is None or start.is_new:
        return []
    passed = fit_to_data(passed, start.model_overrides, model.data.training, fresh=True)
    changes = [] if start.request.weights else _changes(model.config, passed)
    line = f"the run continues with its own config; the one that was passed differs: {'; '.join(changes)}"
    return [line] if changes else []


def _images_warning(
    settings: TrainConfig, record: Mapping[str, Any] | None, before: TrainConfig | None, processes: Processes
) -> Iterator[str]:
    """A warning if the run that is resumed had another number of images per step, or of processes."""
    if record is None or before is None:
        return
    count = record.get("processes", 1)
    images, earlier = settings.images_per_step(processes.count), before.images_per_step(count)
    if images != earlier:
        yield (
            f"the run had {counted(earlier, 'image')} per step and now has {images}, so it continues with other "
            "batches and another learning rate. The images per step are train.batch_size x train.accumulate x the "
            "number of processes"
        )
    elif processes.count != count:
        yield (
            f"the run had {counted(count, 'process')} and now has {processes.count}: it continues with the same images "
            "in the same order, but other random numbers, so the weights differ slightly from those without the change"
        )


def _model_reasons(start: Start, config: DetectorConfig) -> dict[str, str]:
    """The reason for each setting that differs from the model that is named, if nobody gave or chose it."""
    if config.name not in MODELS:  # there is nothing to compare with
        return {}
    request, usual = start.request, {one.path: one.default for one in settings_table(model_config(config.name))}
    if not start.is_new:
        reason = f"as recorded in {request.record_file}"
    elif request.config is not None:
        reason = "of the config that was passed"
    elif starts_fresh(request.model):
        reason = f"of the weights {request.weights}"
    else:
        reason = f"of the checkpoint {request.model}"
    paths = (one.path for one in settings_table(config) if one.path not in usual or usual[one.path] != one.default)
    of_data = ("num_classes", "keypoint.")
    return {path: "from the data" if start.is_new and path.startswith(of_data) else reason for path in paths}


def _setting_reasons(start: Start) -> dict[str, str]:
    """The reason for the value of each setting, or "given"."""
    request, first, recipe = start.request, start.first, start.recipe
    reasons, defaults = dict[str, str](), TrainConfig()
    for name in config_to_dict(first):
        if not start.is_new:
            reason = f"as recorded in {request.record_file}"
        elif getattr(first, name) == getattr(defaults, name):
            reason = DEFAULT
        else:
            reason = "default of this command" if request.settings else "default for this start"
        reasons[PREFIX + name] = reason
    if recipe is not None:
        reasons |= dict.fromkeys((one.partition("=")[0] for one in recipe.settings), f"recipe {recipe.name}")
        if first.schedule:
            reasons[f"{PREFIX}milestones"] = f"recipe {recipe.name}: fractions of its schedule, {first.schedule}"
    lengths = [name for name in LENGTHS if getattr(first, name) != getattr(defaults, name)]
    if typed := [PREFIX + name for name in keys_of(request.overrides).intersection(LENGTHS)]:  # it replaces the others
        reasons |= dict.fromkeys((PREFIX + name for name in lengths), f"{typed[0]} is given")
    given = setting_keys(request.overrides)
    given |= {PREFIX + "augment"} if request.augment is not None else set()
    return reasons | dict.fromkeys(given, "given")


def _changes(before: Any, now: Any) -> list[str]:
    """The settings that differ, as KEY: OLD -> NEW."""
    old, new = ({setting.path: setting.default for setting in settings_table(value)} for value in (before, now))
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
