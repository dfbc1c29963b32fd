"""`rcnn train`: train a model on a data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.early import is_setting, require_places, require_run_folder, warn_of_repeats
from rcnn.cli.failures import COMMAND_LINE, discard_output, is_launched, note_stop
from rcnn.cli.loading_line import end_loading_line
from rcnn.cli.options import (
    Allow,
    AllowEmpty,
    Annotations,
    Device,
    Images,
    Offline,
    RelativeBoxes,
    Strict,
)
from rcnn.cli.workers import Devices, MaxRestarts, launch, require_devices
from rcnn.commands import AGAIN, CONTINUE, as_typed
from rcnn.new_outputs import output_or_new
from rcnn.outputs import DISK_FULL
from rcnn.training.found_run import is_restarted, is_run, start_of_run

if TYPE_CHECKING:
    from rcnn.training.plan import RunPlan
    from rcnn.training.saver import Outcome

ARGUMENTS = {"model": "MODEL_OR_CHECKPOINT", "overrides": "KEY.SUB=VALUE"}  # parameter -> its name in the help


def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT",
            help="A name from `rcnn models list` or `rcnn models weights`, or a checkpoint folder.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set in any of the formats of docs/data.md, or its annotation file."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.SUB=VALUE", help="Settings, e.g. rpn.proposals.nms_iou=0.6 train.steps=500."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="A published recipe from `rcnn models recipes`: model, weights and settings. Other options and "
            "settings take precedence over it."
        ),
    ] = "",
    schedule: Annotated[
        str,
        typer.Option(help="Length of the run as one of COCO's schedules, 1x to 9x; the same as train.schedule=1x."),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run: config.json, log.jsonl (its steps count from 0), curve.html, curve.png, last/, "
            "best/. Defaults to a new runs/train-MODEL-N."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Training split; train+val: both; ids.txt: the images that the file lists. Defaults to the split with "
            "a name that starts with `train`."
        ),
    ] = "",
    val_split: Annotated[
        list[str] | None,
        typer.Option(
            help="Validation split; `none`: no evaluation. May be given several times: the first chooses best/. "
            "Defaults to the split with a name that starts with `val` or `minival`."
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the training images that is held out for validation. Defaults to 0.2 if there is no "
            "validation split and there are at least 10 images."
        ),
    ] = None,
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    weights: Annotated[
        str,
        typer.Option(
            help="For a named model: imagenet, none (random weights), a name from `rcnn models weights`, or the folder "
            "of a backbone. Defaults to COCO weights of the model where they exist, else ImageNet weights."
        ),
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output with its settings.")] = False,
    device: Device = "auto",
    devices: Devices = 1,
    max_restarts: MaxRestarts = 0,
    strict: Strict = False,
    allow_empty: AllowEmpty = False,
    allow: Allow = None,
    offline: Offline = False,
    replay_file: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="Repeat a training step with a loss that was not finite, from the file RUN/nonfinite.pt. Give no "
            "model and no --data.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan of the run, with reasons, and write nothing but the cache."),
    ] = False,
    measure_steps: Annotated[
        int,
        typer.Option(
            "--measure", help="With --dry-run: run this number of steps to measure time and memory, e.g. 5.", min=0
        ),
    ] = 0,
) -> None:
    """Train a model, or fine-tune a checkpoint, also on other classes.

    Ctrl-C stops after the current step and saves; --resume continues from there. --devices N trains on N GPUs.

    Example: rcnn train mask_rcnn_compact --data balloons/ --output runs/balloons train.steps=500
    """
    if replay_file is not None:
        _require_only(context, "replay_file", "device", "allow", "offline")
        from rcnn.runtime.devices import choose_device
        from rcnn.training.finite import replay

        for line in replay(replay_file, choose_device(device), tuple(allow or ())):
            typer.echo(line)
        return
    words = list(overrides or ())
    if (recipe or resume) and model is not None and is_setting(model):  # no model is given
        model, words = None, [model, *words]
    if schedule:
        words.append(f"train.schedule={schedule}")
    warn_of_repeats(words)
    if resume and output is None:
        run = model if model and is_run(Path(model)) else "RUN"
        raise ValueError(
            "--resume continues a run; expected the folder of the run as --output: "
            f"{as_typed('rcnn', 'train', '--resume', '--output', run)}"
        )
    if resume and output is not None and (data is None or not (model or recipe)):
        started, of_recipe, recorded = start_of_run(output, needs_data=data is None)
        if not (model or recipe):
            model, recipe = started, of_recipe
        data = data or recorded
    if not (model or recipe) or data is None:
        raise ValueError(
            "give a model or a checkpoint, and its data: rcnn train MODEL_OR_CHECKPOINT --data DIR, or a recipe: "
            "rcnn train --recipe NAME --data DIR"
        )
    if measure_steps and not (dry_run and devices == 1):
        raise ValueError("--measure is for --dry-run on one device: rcnn train MODEL --data DIR --dry-run --measure 5")
    require_places(data, None)
    require_run_folder(output, data, images, resume=resume or is_restarted())

    # imported after the checks above, because these modules import torch
    from rcnn.training.setting_names import require_known

    require_known(words)  # before the other modules, which take seconds
    from rcnn.training.describe import describe_plan
    from rcnn.training.measure import measure
    from rcnn.training.plan import plan_training
    from rcnn.training.request import RunRequest
    from rcnn.training.run import execute

    request = RunRequest(
        model=model or "",
        recipe=recipe,
        data=data,
        output=output,
        overrides=tuple(words),
        split=split,
        val_splits=tuple(val_split or ()),
        val_fraction=val_fraction,
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        weights=weights,
        device=device,
        resume=resume or is_restarted(),
        strict=strict,
        allow_empty=allow_empty,
        allow=tuple(allow or ()),
    )
    if devices > 1:
        require_devices(devices, device)
    needs_weights = not dry_run or measure_steps > 0
    plan = plan_training(request, _status, devices=devices, download=needs_weights)
    if dry_run:
        end_loading_line()
        for line in describe_plan(plan):
            typer.echo(line)
        typer.echo("nothing was written (--dry-run)")
        if measure_steps:
            typer.echo(str(measure(plan, measure_steps)))
        return
    if devices > 1 or max_restarts > 0:
        with output_or_new(output, "train", plan.request.model) as folder:
            more = ["--output", str(folder)] if output is None else []
            line = partial(_going_on, plan, folder, launched=devices > 1)
            launch(devices, device, max_restarts=max_restarts, more=more, going_on=line)
        return
    outcome = execute(
        plan,
        log=print_of_run,
        ending=partial(_outcome_lines, plan=plan, data=data),
        going_on=partial(_going_on, plan),
    )
    if outcome.signal is not None:
        note_stop(outcome.signal, told=plan.processes.is_first)
        raise typer.Exit(128 + outcome.signal)


def _status(line: str) -> None:
    """Print a status message of the plan."""
    end_loading_line()
    typer.echo(line, err=True)


def print_of_run(line: str) -> None:
    """Print a line about a run, which goes on if nothing reads stdout any more, or if its file cannot grow.

    Examples: `rcnn train ... | head -1`, and `rcnn train ... > log.txt` on a full disk.
    """
    end_loading_line()
    try:
        typer.echo(line)
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno not in DISK_FULL:
            raise
        discard_output(sys.stdout)
        lost = "was closed" if isinstance(error, BrokenPipeError) else f"cannot be written ({error.strerror})"
        try:
            typer.echo(f"warning: standard output {lost}; training continues, and its log is in log.jsonl", err=True)
        except OSError:  # the same file: `rcnn train ... &> log.txt`
            discard_output(sys.stderr)


def _going_on(plan: RunPlan, output: Path, *, launched: bool = False) -> str:
    """The line with the command that continues the run in `output`, or starts it again if it has no last/.

    `launched` as for `continue_command`.
    """
    from rcnn.runtime.launch import typed_command
    from rcnn.training.request import can_continue, continue_command

    processes = plan.processes.count
    if can_continue(output):
        return f"{CONTINUE}: {continue_command(plan.request, processes, output, plan.own_code, launched=launched)}"
    launched = launched or is_launched()
    again = typed_command() if is_launched() else as_typed("rcnn", *COMMAND_LINE.get(()))
    by_torchrun = processes > 1 and not launched
    return f"{AGAIN}: {again}" + f" (in {processes} processes, started as before)" * by_torchrun


def _outcome_lines(outcome: Outcome, plan: RunPlan, data: Path) -> Iterator[str]:
    """What became of a run: finished or stopped, how to continue, and its best checkpoint."""
    from rcnn.data.messages import counted

    if outcome.finished:
        early = outcome.step < outcome.steps
        how = f"stopped early (train.patience={plan.settings.patience})" if early else "finished"
        yield f"{how} after {counted(outcome.step, 'step')}; the run is in {outcome.output}"
    else:
        done = f"{outcome.step} of {counted(outcome.steps, 'step')}"
        yield f"stopped by {outcome.stopped_by} after {done}; {_going_on(plan, outcome.output)}"
    if outcome.best is not None:
        yield f"best {outcome.best_metric} {outcome.best:.4f}, in {outcome.output / 'best'}"
    if outcome.best == 0:
        yield (
            f"the best {outcome.best_metric} is 0: train longer (--resume train.steps=N), or look at the data: "
            f"{as_typed('rcnn', 'data', 'browse', data, '--output', 'browse')}"
        )


def _require_only(context: typer.Context, *names: str) -> None:
    """Raise ValueError if other parameters than `names` were given: --replay would ignore them."""
    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    ignored = [
        ARGUMENTS.get(parameter.name or "", max(parameter.opts, key=len))
        for parameter in context.command.params
        if parameter.name in given.difference(names)
    ]
    if ignored:
        raise ValueError(
            f"--replay repeats a saved step with the model and the settings of its run; leave {', '.join(ignored)} out"
        )
