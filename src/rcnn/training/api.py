"""The public functions `rcnn.train` and `rcnn.plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from rcnn.arguments import (
    DATA,
    OUTPUT,
    SPLIT,
    as_optional_text,
    as_path,
    as_text,
    as_texts,
    require_switches,
    whole_number,
    wrong_type,
)
from rcnn.commands import AGAIN, CONTINUE
from rcnn.data import Dataset
from rcnn.data.held_out import require_fraction
from rcnn.data.messages import counted
from rcnn.given_steps import Given, as_steps
from rcnn.models import DetectorConfig
from rcnn.models.overrides import Overrides, as_overrides
from rcnn.new_outputs import output_or_new
from rcnn.runtime.devices import choose_device
from rcnn.runtime.launch import (
    FailedWhileStoppingError,
    ProcessFailedError,
    launch_function,
    require_devices,
    require_sendable,
)
from rcnn.training.found_run import is_restarted, start_of_run
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest, can_continue
from rcnn.training.run import run_training
from rcnn.training.saver import Outcome
from rcnn.training.starting import CONFIG
from rcnn.training.trackers import Tracker, own_trackers
from rcnn.training.training_plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run that has ended. `rcnn.Predictor(run.folder)` predicts with its best checkpoint."""

    folder: Path  # config.json, log.jsonl, last/, best/
    step: int  # steps done
    finished: bool  # False: stopped by a signal or train.time_limit; continue it with `resume=True`
    best: float | None  # the best value of `train.best`, e.g. segm.AP, in 0..1; None if nothing was evaluated


def train(
    model: DetectorConfig | str | Path = "",
    data: Dataset | str | Path = "",
    output: str | Path | None = None,
    *,
    recipe: str = "",
    overrides: Overrides = (),
    augment: Given | None = None,
    split: str | Path = "",
    val_split: str | Path | Sequence[str | Path] = "",
    val_fraction: float | None = None,
    validation: Dataset | None = None,
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    weights: str | Path = "",
    resume: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
    allow: str | Sequence[str] = (),
    device: str = "auto",
    devices: int = 1,
    max_restarts: int = 0,
    trackers: Sequence[Tracker] = (),
    log: Callable[[str], object] = print,
) -> TrainingRun:
    """Train a model (its name or config), or fine-tune a checkpoint (its folder), on a data set.

    `recipe`: name of a published recipe (`rcnn models recipes`), which also names a model; other arguments take
    precedence over it. `data`: folder or annotation file of the data set, or a `Dataset`, with `validation` for its
    validation set.
    `output`: the run's folder; default: a new `runs/train-MODEL-N`. `overrides`: changes of settings, as KEY=VALUE
    strings or a dict: ["train.steps=500", "input.min_size=640"] or {"train.steps": 500} (`rcnn models show MODEL`
    lists all settings). `augment`: the augmentation steps, in place of the setting train.augment: names, dicts of
    settings, and functions of your own, f(sample, random) -> sample.
    `split` (as in `open_dataset`) and `val_split` default to the splits with names that start with train and val.
    `val_split` may be a list; the first one chooses the best checkpoint. "none": no evaluation. `val_fraction`: this
    fraction of the training images is held out for validation; by default 0.2 if there is no validation split and
    there are at least 10 images. `annotations`, `images` and `relative_boxes` as in `open_dataset`. `weights`, only for
    the name of a model: "imagenet", "none" (random), a name of `list_weights`, or the folder of a backbone; default:
    the model's COCO weights where they exist, else ImageNet weights of its backbone. `resume`: continue the run in
    `output`, whose model and data are the defaults then (a `Dataset` must be passed again); otherwise
    `output` must not contain a run. Processes that torchrun starts again after a failure always resume, so they need
    `output`. `strict` and `allow_empty` as in `open_dataset`.
    `allow`: the user's code that a checkpoint, or a run that is resumed, may run, see `rcnn.load`.
    `devices`: number of processes to start on this machine, one per GPU, or on the CPU if there is none.
    `max_restarts`: if one of them fails, all are started again up to this number of times, and continue from last/;
    with 1 or more, a process is started also for one device. A script that starts processes needs
    `if __name__ == "__main__":`. `trackers`: objects of your own with the methods `start`, `log` and `close`, which get
    the numbers of the log (docs/training.md, Watching a run), beside the programs that train.trackers names. `log`
    receives the progress lines; where processes are started, `log`, the functions in `augment` and the classes of
    `trackers` must be defined at the top level of a module.

    Raises FileNotFoundError, FileExistsError or ValueError before training starts.
    """
    if output is None and is_restarted():
        raise ValueError(
            "torchrun has started this process again after a failure, but without output= the run that failed cannot "
            "be found: give rcnn.train the folder of the run as output"
        )
    require_switches(resume=resume)
    max_restarts = whole_number("max_restarts", max_restarts, "0 or more", 0)
    devices = whole_number("devices", devices, "1 or more processes")
    request = _request(
        model, data, output, recipe=recipe, overrides=overrides, augment=augment, split=split, val_split=val_split,
        val_fraction=val_fraction, validation=validation, annotations=annotations, images=images,
        relative_boxes=relative_boxes, weights=weights, resume=resume or is_restarted(), strict=strict,
        allow_empty=allow_empty, allow=allow, device=device,
    )  # fmt: skip
    request = replace(request, trackers=own_trackers(trackers))
    if devices > 1 or max_restarts > 0:
        require_devices(devices, request.device)
        require_sendable(augment=request.augment, trackers=request.trackers, log=log)
        planned = plan_training(request, log, devices=devices)  # refuses before any process is started
        with output_or_new(request.output, "train", planned.request.model.removeprefix(CONFIG)) as folder:
            return _train_in_processes(replace(request, output=folder), log, devices, max_restarts)
    return _train(request, log)


def plan(
    model: DetectorConfig | str | Path = "",
    data: Dataset | str | Path = "",
    output: str | Path | None = None,
    *,
    recipe: str = "",
    overrides: Overrides = (),
    augment: Given | None = None,
    split: str | Path = "",
    val_split: str | Path | Sequence[str | Path] = "",
    val_fraction: float | None = None,
    validation: Dataset | None = None,
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    weights: str | Path = "",
    resume: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
    allow: str | Sequence[str] = (),
    device: str = "auto",
    devices: int = 1,
    log: Callable[[str], object] = print,
) -> TrainingPlan:
    """What `train` would do with these arguments, as `rcnn train --dry-run`: nothing is trained or written.

    `print(plan)` shows every value that was given or chosen with its reason; `plan.values` and `plan.reasons` have
    them by name, and `plan.measure(5)` runs five steps for their time and memory. Weights that are not on this machine
    are downloaded only by `measure`, or if they are the model itself. `log` receives status messages.

    Raises what `train` raises before training starts.
    """
    devices = whole_number("devices", devices, "1 or more processes")
    request = _request(
        model, data, output, recipe=recipe, overrides=overrides, augment=augment, split=split, val_split=val_split,
        val_fraction=val_fraction, validation=validation, annotations=annotations, images=images,
        relative_boxes=relative_boxes, weights=weights, resume=resume, strict=strict, allow_empty=allow_empty,
        allow=allow, device=device,
    )  # fmt: skip
    if devices > 1:
        require_devices(devices, request.device)
    make = partial(plan_training, request, log, devices=devices)
    return TrainingPlan(make(download=False), complete=partial(make, download=True))


def _request(
    model: DetectorConfig | str | Path,
    data: Dataset | str | Path,
    output: str | Path | None,
    *,
    recipe: str,
    overrides: Overrides,
    augment: Given | None,
    split: str | Path,
    val_split: str | Path | Sequence[str | Path],
    val_fraction: float | None,
    validation: Dataset | None,
    annotations: str,
    images: str | Path,
    relative_boxes: bool,
    weights: str | Path,
    resume: bool,
    strict: bool,
    allow_empty: bool,
    allow: str | Sequence[str],
    device: str,
) -> RunRequest:
    """The request that the arguments of `train` make."""
    if not isinstance(model, DetectorConfig):
        model = as_text(model, "the model", "a config, the name of a model, or a checkpoint, as str or Path")
    if not isinstance(data, Dataset):
        data = as_text(data, "the data set", f"{DATA}, or a Dataset")
    require_switches(relative_boxes=relative_boxes, resume=resume, strict=strict, allow_empty=allow_empty)
    if val_fraction is not None:
        val_fraction = require_fraction(val_fraction)
    if validation is not None and not isinstance(validation, Dataset):
        raise wrong_type(validation, "validation", "a Dataset; for a split of the data, give its name as val_split")
    folder = None if output is None else as_path(output, OUTPUT)
    if resume and folder is not None and (data == "" or not (model or recipe)):
        start = f"rcnn.train(model, data, output={str(folder)!r})"
        started, of_recipe, recorded = start_of_run(folder, start, needs_data=data == "")
        if not (model or recipe):
            model, recipe = started, of_recipe
        data = str(recorded) if data == "" else data
    if not (model or recipe) or data == "":
        raise ValueError(
            "give a model or recipe=NAME, and data: rcnn.train(model, data); or the run to continue: "
            "rcnn.train(output=RUN, resume=True)"
        )
    return RunRequest(
        model=CONFIG + model.name if isinstance(model, DetectorConfig) else model,
        config=model if isinstance(model, DetectorConfig) else None,
        data=data if isinstance(data, Dataset) else Path(data),
        validation=validation,
        output=folder,
        recipe=as_optional_text(recipe, "recipe"),
        overrides=as_overrides(overrides),
        augment=None if augment is None else as_steps(augment),
        split=as_text(split, "split", SPLIT),
        val_splits=_names_of(val_split) if val_split else (),
        val_fraction=val_fraction,
        annotations=as_optional_text(annotations, "annotations"),
        images=as_optional_text(images, "images"),
        relative_boxes=bool(relative_boxes),  # the record has no numpy values
        weights=as_optional_text(weights, "weights"),
        device=device if isinstance(device, str) else str(choose_device(device)),
        resume=resume,
        strict=strict,
        allow_empty=allow_empty,
        allow=as_texts(allow, "allow"),
    )


def _names_of(split: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    if isinstance(split, str | Path):
        return (str(split),)
    if not isinstance(split, Sequence):
        raise wrong_type(split, "val_split", f"{SPLIT}, or a list of these")
    return tuple(as_text(one, "val_split", f"{SPLIT}, or a list of these") for one in split)


def _train_in_processes(
    request: RunRequest, log: Callable[[str], object], devices: int, max_restarts: int
) -> TrainingRun:
    for restarts in count():
        try:
            return launch_function(_train, request, log, devices=devices)
        except ProcessFailedError as error:
            if restarts == max_restarts or isinstance(error, FailedWhileStoppingError):
                error.add_note(_going_on(request.output or Path()))
                raise
            log(str(error))
            log(f"starting all processes again ({restarts + 1} of {max_restarts})")
            request = replace(request, resume=True)
    raise AssertionError  # the loop has no other end


def _going_on(output: Path) -> str:
    """How to continue the run in `output`, or to start it again if it has no last/."""
    if can_continue(output):
        return f"{CONTINUE}, make the same call with resume=True and output={str(output)!r}"
    return f"{AGAIN}, make the same call"


def _ending(outcome: Outcome) -> Iterator[str]:
    if not outcome.finished:
        done = counted(outcome.step, "step")
        yield f"stopped by {outcome.stopped_by} after {done}; {_going_on(outcome.output)}"


def _train(request: RunRequest, log: Callable[[str], object]) -> TrainingRun:
    outcome = run_training(request, log=log, ending=_ending, going_on=_going_on)
    return TrainingRun(folder=outcome.output, step=outcome.step, finished=outcome.finished, best=outcome.best)
