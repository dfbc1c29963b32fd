"""What a run saves while it trains: last/, best/, and the metrics of its evaluations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from signal import Signals

from rcnn.data.messages import counted
from rcnn.models import Detector
from rcnn.runtime.in_flight import launcher_was_signalled
from rcnn.runtime.launch import LAUNCHED
from rcnn.stopping import has_lost_launcher
from rcnn.training.distributed import share_buffers, stop_together
from rcnn.training.found_run import LOG
from rcnn.training.log import SilentLog, read_log
from rcnn.training.run_folder import RunFolder
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import whole_detector
from rcnn.training.signals import StopRequests
from rcnn.training.state import TrainState
from rcnn.training.validation import (
    SINCE_BEST,
    THRESHOLDS,
    Metrics,
    choose,
    chosen_metric,
    ends_run,
    flatten,
    is_better,
    logged_choice,
    main_metrics,
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    output: Path  # the folder of the run
    step: int  # steps done
    steps: int  # of the whole run
    finished: bool  # all steps, or ended early; False: a signal or the time limit stopped it, and it can be resumed
    best: float | None  # best value of the metric that best/ is chosen by; None: never evaluated
    best_metric: str  # its name, e.g. segm.AP
    metrics: Metrics | None  # of the last evaluation
    signal: int | None = None  # the number of the signal that stopped it
    stopped_by: str = ""  # what stopped it, e.g. "SIGTERM (sent to process 1 of 2)" or "train.time_limit"


class Saver:
    """Saves `state` to last/, evaluates it when an evaluation is due, and keeps the best in best/."""

    def __init__(
        self,
        state: TrainState,
        settings: TrainConfig,
        run: RunFolder,
        log: SilentLog,
        evaluate: Callable[[Detector], Metrics] | None,
        after_evaluation: Callable[[], object] | None = None,
    ) -> None:
        self.state, self.settings, self.run, self.log, self.evaluate = state, settings, run, log, evaluate
        self.after_evaluation = after_evaluation
        self.saved = state.step  # the step of last/
        self._kept = 0  # the step of the last step-N/ that was written
        self._metrics: Metrics | None = None

    def save_last(self) -> None:
        """Replace last/ by the present state, and write step-N/ if it is due. All processes call it together."""
        self.log.sync()
        self.run.save_state("last", self.state)
        self.saved = self.state.step
        if self.settings.keeps_at(self.state.step) and self._kept != self.state.step:
            self._keep()

    def keep_missing(self) -> None:
        """Write the step-N/ of the present step if a killed process wrote last/, but not step-N/."""
        step, folder = self.state.step, self.run.path / f"step-{self.state.step}"
        if step and self.settings.keeps_at(step) and self.state.processes.from_first(lambda: not folder.exists()):
            self._keep()

    def _keep(self) -> None:
        self.run.save(f"step-{self.state.step}", self.state.evaluated)
        self._kept = self.state.step

    def evaluate_if_due(self, stop: StopRequests) -> None:
        """Evaluate if an evaluation is due, log the metrics, and replace best/ if this is the best value so far."""
        state = self.state
        if self.evaluate is None or not state.evaluation_due:
            return
        state.processes.rest()
        stop_together(state.processes, stop)
        # A signal may reach one process only, and their clocks differ. One that left this exchange would be lost to the
        # others, which wait for it, so nothing interrupts it
        share_buffers(state.evaluated, state.processes)
        self._metrics = self._evaluate(self.evaluate, stop)
        value = choose(self._metrics, self.settings.best)
        if is_better(value, state.best):
            state.best, state.since_best = value, 0
            self.run.save("best", state.evaluated, thresholds=self._metrics.get(THRESHOLDS))
        elif state.best:  # not before a value above 0: a model without correct detections has only started to learn
            state.since_best += 1
        self.log.write(step=state.step - 1, **flatten(self._metrics), **{SINCE_BEST: state.since_best})
        self.log.log(f"step {state.step}: {main_metrics(self._metrics)}")
        state.evaluation_due = False
        self.save_last()
        ended = state.step == self.settings.steps
        if self.after_evaluation is not None and not ended:
            self.after_evaluation()
            state.processes.wait()  # for the charts of the first process, which may take longer than a step
        state.processes.doing("the end of the run" if ended else f"the data of step {state.step}")

    def _evaluate(self, evaluate: Callable[[Detector], Metrics], stop: StopRequests) -> Metrics:
        """The metrics. A stop request ends the evaluation; last/ is saved, and a run that is resumed repeats it.

        Several processes agree to end it at their next exchange of results. What only the first one computes ends at
        once if it gets the request.
        """
        state, processes = self.state, self.state.processes
        if processes.count == 1:
            with stop.interrupting():
                return evaluate(whole_detector(state.evaluated))
        stopping = partial(stop_together, processes, stop)
        state.processes = replace(processes, stopping=stopping, unless_stopped=stop.unless_stopped)
        try:
            return evaluate(whole_detector(state.evaluated))
        finally:
            state.processes = processes

    def ends_early(self) -> bool:
        """Whether early stopping (`train.patience`) ends the run after the last evaluation; says so in the log."""
        state, patience, every = self.state, self.settings.patience, self.settings.evaluate_every
        is_evaluated = every > 0 and state.step % every == 0 and not state.evaluation_due
        if not (is_evaluated and ends_run(state.step, state.since_best, self.settings)):
            return False
        self.log.log(
            f"stopped early after {state.step} of {counted(self.settings.steps, 'step')}: "
            f"no improvement in {counted(state.since_best, 'evaluation')} (best {state.best:.4f}; "
            f"train.patience={patience})"
        )
        return True

    def outcome(self, *, stop: StopRequests | None = None) -> Outcome:
        """How the run ended: finished, or stopped by the signal or the time limit of `stop`."""
        chosen = self.settings.best
        return Outcome(
            output=self.run.path,
            step=self.state.step,
            steps=self.settings.steps,
            finished=stop is None,
            best=self.state.best,
            best_metric=chosen or (chosen_metric(self._metrics, "") if self._metrics else self._logged_metric()),
            metrics=self._metrics,
            signal=None if stop is None else stop.signal,
            stopped_by="" if stop is None else self._stopped_by(stop),
        )

    def _logged_metric(self) -> str:
        """The metric that best/ was chosen by before the run was resumed, if the log has it."""
        evaluations = (flat for flat in reversed(read_log(self.run.path / LOG)) if SINCE_BEST in flat)
        return logged_choice(next(evaluations, {}))

    def _stopped_by(self, stop: StopRequests) -> str:
        """What stopped the run. Without the launcher of `--devices`, nothing says if other processes got the signal."""
        if stop.signal is None:
            return "train.time_limit"
        if has_lost_launcher():
            return "the end of the process that started it (--devices, --max-restarts or torchrun)"
        name, count = Signals(stop.signal).name, self.state.processes.count
        if count == 1 or os.environ.get(LAUNCHED) != "1" or launcher_was_signalled():
            return name
        return f"{name} (sent to process {stop.process} of {count})"
