"""A whole training run: plan it (plan.py), then execute it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import torch

from rcnn import __version__
from rcnn.data.identity import identity_changes
from rcnn.data.loading import TrainingBatch, prefetched, training_batches
from rcnn.data.messages import counted, few
from rcnn.drawing.charts import curve_page, training_svgs, write_plot
from rcnn.drawing.run_page import run_page
from rcnn.models import Detector, build_detector
from rcnn.new_outputs import output_or_new
from rcnn.runtime.memory import is_out_of_memory
from rcnn.runtime.processes import Processes, joined, process_numbers
from rcnn.stopping import completing
from rcnn.training.batch_size import chosen_batch_size, with_batch_size
from rcnn.training.describe import describe_start
from rcnn.training.determinism import deterministic
from rcnn.training.distributed import batch_norm_warnings
from rcnn.training.engine import train
from rcnn.training.finite import DivergedError
from rcnn.training.found_run import CURVE, HELD_OUT, LOG, PICTURES, PLOT, REPORT
from rcnn.training.identity import require_same_data
from rcnn.training.log import RunLog, SilentLog, damaged_lines, log_gap, read_log
from rcnn.training.pictures import pictures_of, write_pictures
from rcnn.training.plan import RunPlan, RunRequest, plan_training
from rcnn.training.run_folder import RunFolder
from rcnn.training.saver import Outcome
from rcnn.training.schedule import learning_rate
from rcnn.training.settings import PREFIX
from rcnn.training.starting import CONFIG, build_start
from rcnn.training.state import TrainState, seed_random
from rcnn.training.surroundings import run_tables
from rcnn.training.targets import target_options
from rcnn.training.trackers import TRACKERS, Reports, chosen_trackers
from rcnn.training.validation import LOSS, Metrics, evaluate_detector
from rcnn.training.validation_loss import validation_loss
from rcnn.training.view import RunSize

Log = Callable[[str], object]
RUNNING = ", running."  # on the page of a run that goes on


def run_training(
    request: RunRequest,
    *,
    log: Log = print,
    ending: Callable[[Outcome], Iterable[str]] = lambda outcome: (),
    going_on: Callable[[Path], str] = lambda output: "",
) -> Outcome:
    """Plan a run and execute it. `log` receives status messages; `ending` and `going_on` as for `execute`.

    Under a launcher such as torchrun, each process calls it; the first one writes the folder and the messages.

    A ValueError or OSError says what is wrong and what to do; after one from `plan_training` nothing was written.
    """
    plan = plan_training(request, log if process_numbers().is_first else _silent)
    return execute(plan, log=log, ending=ending, going_on=going_on)


def execute(
    plan: RunPlan,
    *,
    log: Log = print,
    ending: Callable[[Outcome], Iterable[str]] = lambda outcome: (),
    going_on: Callable[[Path], str] = lambda output: "",
) -> Outcome:
    """Train as planned. The folder of the run gets config.json, log.jsonl, curve.html, curve.png, and checkpoints.

    `ending`: lines for the log about how the run ended. `going_on` says how to go on with the run in a folder; an error
    that ends the run gets this as a note.
    """
    with deterministic(plan.settings.deterministic):
        own = chosen_batch_size(plan) if plan.auto_batch_size else None  # before processes can wait for each other
        with joined(plan.device, 2 * plan.settings.watchdog, watchdog=plan.settings.watchdog) as processes:
            log = log if processes.is_first else _silent
            if own is not None:
                plan, line = with_batch_size(plan, own, processes)
                log(line)
            outcome = _execute(plan, processes, log, ending, going_on)
            if outcome.signal is not None:
                processes.let_first_end()
            return outcome


def _silent(line: str) -> None:
    """The log of a process that reports nothing."""


@contextmanager
def _output(plan: RunPlan, processes: Processes) -> Iterator[Path]:
    """The folder of the run; for a new folder, the first process chooses the name."""
    if not processes.is_first:
        yield processes.share(Path())
        return
    with output_or_new(plan.output, "train", plan.request.model.removeprefix(CONFIG)) as output:
        yield processes.share(output)


def _execute(
    plan: RunPlan,
    processes: Processes,
    log: Log,
    ending: Callable[[Outcome], Iterable[str]],
    going_on: Callable[[Path], str],
) -> Outcome:
    """Train as planned, together with the other processes."""
    provenance = plan.about() | {"rcnn": __version__, "torch": torch.__version__}
    processes.wait()  # until all have read what is in the folder
    require_same_data(plan.identity, processes)
    with (
        _output(plan, processes) as output,
        RunFolder(
            output, classes=plan.dataset.classes, provenance=provenance, writes=processes.is_first, resumes=plan.resumes
        ) as run,
    ):
        processes.wait()  # until the first has recovered what a killed process left in the folder
        state = _resume(plan, run, processes, log) if plan.resumes else start_state(plan, processes, log)
        processes.wait()  # until all have read last/
        run.claim(resumes=plan.resumes)
        run.forget_failure()
        if not _is_done(state, plan):  # else the settings of this command had no effect on the run
            run.write_record(plan.record())
        if plan.held_out is not None:
            run.write_text(HELD_OUT, "\n".join(plan.held_out.files) + "\n")
        for line in () if _is_done(state, plan) else _first_lines(plan, state):
            log(line)
        try:
            return _train(plan, run, state, log, ending)
        except BaseException as error:
            if isinstance(error, Exception):  # not a signal
                run.note_failure(error)
            if note := going_on(output):
                error.add_note(note)
            if isinstance(error, DivergedError):  # of all processes
                processes.let_first_end()
            raise


def _first_lines(plan: RunPlan, state: TrainState) -> Iterator[str]:
    """What the log says before the first step."""
    yield from describe_start(plan)
    for line in batch_norm_warnings(state.detector.train(), plan.settings, state.processes):
        yield f"warning: {line}"
    if plan.settings.deterministic:
        threads = counted(torch.get_num_threads(), "thread")
        yield f"train.deterministic=true: every run with {threads} on this hardware gives the same weights"


def _train(
    plan: RunPlan, run: RunFolder, state: TrainState, log: Log, ending: Callable[[Outcome], Iterable[str]]
) -> Outcome:
    """Train from `state` on, write the charts and the page of the run, and log the lines of `ending`."""
    before, how, outcome = (state.step, state.evaluation_due), "failed", None
    try:
        with _run_log(plan, run.path, state, log) as run_log:
            evaluate = _evaluation(plan, run_log, state, run.path)
            outcome = train(
                state,
                batches_of(plan),
                plan.settings,
                run,
                run_log,
                evaluate=evaluate,
                after_evaluation=partial(_draw_progress, run, plan, state),
            )
        done = "finished" if state.step == plan.settings.steps else "stopped early by train.patience"
        how = done if outcome.finished else f"stopped by {outcome.stopped_by}"
    except KeyboardInterrupt:
        how = "stopped by a second Ctrl-C"
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(_out_of_memory(plan, error)) from error
    finally:
        with completing():  # a launcher may send another signal, e.g. because another process has ended first
            state.processes.rest(failed=how == "failed")
            if state.processes.is_first:
                lead = f"{state.step} of {counted(plan.settings.steps, 'step')}, {how}."
                # after a failure, e.g. a full disk, an error of the charts must not hide the error of the run
                with suppress(OSError, ValueError) if how == "failed" else nullcontext():
                    _draw_curve(run, plan, lead, unchanged=(state.step, state.evaluation_due) == before)
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                for line in () if outcome is None else ending(outcome):
                    log(line)
    return outcome


def _out_of_memory(plan: RunPlan, error: BaseException) -> str:
    """The message for `error` (torch's): which settings to lower, with their present values."""
    settings, size = plan.settings, plan.config.input
    batch = (
        f"train.batch_size={settings.batch_size} (train.accumulate={2 * settings.accumulate} with half of it keeps the "
        "images per step), "
        if settings.batch_size % 2 == 0
        else ""
    )
    return (
        f"not enough memory on {plan.device} for a training step: lower {batch}input.max_size={size.max_size} and "
        f"input.min_size={size.min_size}, or use a smaller model. ({_reason(error)})"
    )


def _out_of_memory_in_evaluation(plan: RunPlan, error: BaseException, output: Path, step: int) -> str:
    """The message for `error` (torch's) in an evaluation during training."""
    size = plan.config.input
    return (
        f"not enough memory on {plan.device} for the evaluation after {counted(step, 'step')}: lower "
        f"input.max_size={size.max_size} and input.min_size={size.min_size}, or start a new run with "
        f"val_split=none (--val-split) and evaluate it with rcnn eval. The steps so far are saved in "
        f"{output}/last. ({_reason(error)})"
    )


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_log(plan: RunPlan, output: Path, state: TrainState, log: Log) -> SilentLog:
    """The log of the run, written by the first process."""
    if not state.processes.is_first:
        return SilentLog()
    settings = plan.settings
    named = [TRACKERS[name]() for name in chosen_trackers(settings.trackers)]
    reports = Reports([*named, *plan.request.trackers], log)
    reports.start(output, plan.record(), state.step)
    size = RunSize(
        steps=settings.steps,
        images_per_step=settings.images_per_step(state.processes.count),
        images=len(plan.dataset),
        device=plan.device,
        extra_images=plan.extra_images,
    )
    return RunLog(
        output / LOG,
        steps=settings.steps,
        first_step=state.step,
        evaluation_due=state.evaluation_due,
        size=size,
        reports=reports,
    )


def start_state(plan: RunPlan, processes: Processes, log: Log) -> TrainState:
    """The state before the first step of a new run."""
    detector, line = build_start(
        plan.config,
        plan.dataset.classes,
        model=plan.request.model,
        weights=plan.request.weights,
        seed=plan.settings.seed,
    )
    if line:
        log(line)
    seed_random(plan.settings.seed, processes.rank)
    return TrainState.start(detector.to(plan.device), plan.settings, processes)


def _resume(plan: RunPlan, run: RunFolder, processes: Processes, log: Log) -> TrainState:
    """The state of last/. ValueError if it cannot be used; it is read before the record of the run is written."""
    seed_random(plan.settings.seed, processes.rank)  # for a process that the run did not have before
    state = TrainState.start(build_detector(plan.config).to(plan.device), plan.settings, processes)
    try:
        provenance = run.load_last(state)
    except ValueError as error:
        layers = [change for change in plan.changed if not change.startswith(PREFIX)]
        if not layers:
            raise
        raise ValueError(
            f"{run.path} cannot be resumed with these changes: {'; '.join(layers)}. A setting that changes the "
            f"layers cannot change during a run: leave it out, or start a new run from {run.path}/last. ({error})"
        ) from error
    steps = plan.settings.steps
    if state.step > steps:
        raise ValueError(
            f"{run.path} is already at step {state.step}, but train.steps={steps}: set train.steps to more than "
            f"{state.step} to continue"
        )
    settings, skips = plan.settings, plan.settings.nonfinite == "skip"
    same_lines = not any(change.startswith((f"{PREFIX}log_every:", f"{PREFIX}nonfinite:")) for change in plan.changed)
    gap = log_gap(run.path / LOG, first_step=state.step, log_every=settings.log_every, skips=skips)
    if same_lines and gap:
        log(f"warning: {gap}")
    if damaged := damaged_lines(run.path / LOG):
        one = f"line {damaged[0]} is damaged and is removed; its step is missing in the curves"
        several = f"lines {few(damaged)} are damaged and are removed; their steps are missing in the curves"
        log(f"warning: {run.path / LOG}: {one if len(damaged) == 1 else several}")
    for change in identity_changes(provenance.get("data_identity"), plan.identity):
        log(f"warning: {change}. Training continues on the current data")
    if state.best is not None and not (run.path / "best").exists():
        log(
            f"warning: {run.path}/best is missing (its value was {state.best:.4f}): the next evaluation writes a new "
            "one, even if its value is lower"
        )
        state.best, state.since_best, state.evaluation_due = None, 0, state.evaluation_due or state.step == steps
    if _is_done(state, plan):
        log(f"{run.path} has already finished its {counted(steps, 'step')}")
        if plan.changed:
            log(f"warning: these changes have no effect on a run that has finished: {'; '.join(plan.changed)}")
    else:
        log(f"resuming {run.path} at step {state.step}")
    return state


def _is_done(state: TrainState, plan: RunPlan) -> bool:
    """Whether all steps are done, and their evaluation too."""
    return state.step == plan.settings.steps and not (state.evaluation_due and plan.validations)


def _draw_progress(run: RunFolder, plan: RunPlan, state: TrainState) -> None:
    """Write the charts and the page of a run that goes on; an error, e.g. a full disk, is left to its end."""
    if state.processes.is_first:
        with suppress(Exception):
            _draw_curve(run, plan, f"{state.step} of {counted(plan.settings.steps, 'step')}{RUNNING}", unchanged=False)


def _draw_curve(run: RunFolder, plan: RunPlan, lead: str, *, unchanged: bool) -> None:
    """Write the charts, and the page of the run, which starts with `lead`.

    `unchanged`: no step was done, so the existing charts and page are not written again: the page keeps its date, and
    the charts the learning rates of the run. A page of a process that was killed still says that the run goes on.
    """
    complete = all((run.path / name).exists() for name in (CURVE, PLOT, REPORT))
    if unchanged and complete and RUNNING not in (run.path / REPORT).read_text(encoding="utf-8"):
        return
    lines = read_log(run.path / LOG)
    schedule = partial(learning_rate, settings=plan.settings, processes=plan.processes.count)
    title, charts = f"Training {run.path.name}", training_svgs(lines, schedule)
    run.write_text(CURVE, curve_page(lines, charts, title))
    run.write_file(PLOT, lambda path: write_plot(path, lines, schedule))
    page = run_page(title, lines, charts, run_tables(plan), lead=lead, pictures=pictures_of(run.path / PICTURES))
    run.write_text(REPORT, page)


def batches_of(plan: RunPlan) -> Callable[[int], Generator[TrainingBatch, None, None]]:
    """A function that returns the endless stream of training batches from batch `first` on, on the run's device."""

    def batches(first: int) -> Generator[TrainingBatch, None, None]:
        stream = training_batches(
            plan.dataset,
            plan.config.input,
            plan.settings,
            first,
            targets=target_options(plan.config),
            rank=plan.processes.rank,
            world=plan.processes.count,
            skip_unreadable=not plan.request.strict,
        )
        return prefetched(stream, plan.device)

    return batches


def _evaluation(plan: RunPlan, log: SilentLog, state: TrainState, output: Path) -> Callable[[Detector], Metrics] | None:
    """A function that evaluates the run's detector, as the settings say; None without a validation set."""
    if not plan.validations:
        return None
    first, settings = plan.validations[0], plan.settings

    def evaluate(detector: Detector) -> Metrics:
        try:
            return measured(detector)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(_out_of_memory_in_evaluation(plan, error, output, state.step)) from error

    def measured(detector: Detector) -> Metrics:
        processes = state.processes  # with what ends this evaluation
        loss = {LOSS: validation_loss(detector, first, plan, processes)} if settings.validation_loss else {}
        metrics = evaluate_detector(
            detector,
            plan.validations,
            settings,
            plan.device,
            after_image=log.evaluated,
            log=log.log,
            processes=processes,
            best=state.best,
        )
        if settings.pictures and not plan.config.proposals_only:
            # the others wait for the pictures, which may take longer than a step
            processes.from_first(partial(write_pictures, detector, first, plan, output / PICTURES, state.step))
        return metrics | loss

    return evaluate
