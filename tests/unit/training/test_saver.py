"""What a run evaluates and saves."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import nn
from typing_extensions import override

from rcnn.runtime.processes import Processes
from rcnn.training import saver
from rcnn.training.distributed import stop_together
from rcnn.training.log import SilentLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.signals import StopRequested, StopRequests
from rcnn.training.state import TrainState
from rcnn.weights.checkpoint import load_checkpoint
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream, tiny

T = TypeVar("T")


def test_the_processes_evaluate_the_same_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an EMA, it is the average that is evaluated: its batch-norm statistics are those to share."""
    shared, evaluated = list[nn.Module](), list[nn.Module]()

    def share(detector: nn.Module, processes: Processes) -> None:
        shared.append(detector)

    monkeypatch.setattr(saver, "share_buffers", share)

    def evaluate(detector: nn.Module) -> dict[str, dict[str, float]]:
        evaluated.append(detector)
        return {"bbox": {"AP": 0.1}}

    settings = replace(SETTINGS, steps=1, ema=0.5)
    train(tiny(), stream, settings, tmp_path, evaluate=evaluate)
    assert shared == evaluated
    assert len(shared) == 1


@dataclass(frozen=True, kw_only=True)
class Agreeing(Processes):
    """Stands for several processes: notes that this one has told the others that it stops."""

    told: list[tuple[float, ...]]

    @override
    def most(self, *values: float) -> list[float]:
        self.told.append(values)
        return list(values)


@dataclass(frozen=True, kw_only=True)
class Sharing(Agreeing):
    """Notes also what the first process sends to the others."""

    shared: list[object] = field(default_factory=list)

    @override
    def share(self, value: T) -> T:
        self.shared.append(value)
        return value


@pytest.mark.parametrize("why", ["signal", "time limit", "signal to this process meanwhile"])
def test_a_process_that_stops_before_an_evaluation_does_not_leave_the_others_waiting(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells them before they exchange the statistics; once the exchange has begun, it completes it."""
    shared, told = list[nn.Module](), list[tuple[float, ...]]()
    stop = StopRequests(1e-9 if why == "time limit" else 0)

    def share(detector: nn.Module, processes: Processes) -> None:
        stop.handle(signal.SIGTERM, None)
        shared.append(detector)

    monkeypatch.setattr(saver, "share_buffers", share)
    if why == "signal":
        stop.handle(signal.SIGTERM, None)
    state: Any = SimpleNamespace(
        processes=Agreeing(count=2, told=told), evaluated=nn.Identity(), evaluation_due=True, step=1
    )

    def evaluate(detector: nn.Module) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": float(len(list(state.processes.in_order(iter(()), 1, 1))))}}

    nothing: Any = None
    due = saver.Saver(state, SETTINGS, nothing, nothing, evaluate)
    with pytest.raises(StopRequested):
        due.evaluate_if_due(stop)
    meanwhile = "meanwhile" in why
    assert len(shared) == meanwhile
    number, expired = (0, 1) if why == "time limit" else (signal.SIGTERM, 0)
    assert told == [(0, 0, 0)] * meanwhile + [(2 * number + 1 if number else 0, expired, 0)]
    assert state.processes.stopping is None


@dataclass(frozen=True, kw_only=True)
class Exchanging(Processes):
    """One of several processes; the others have sent `sent`."""

    sent: tuple[tuple[float, ...], ...] = ()

    @override
    def most(self, *values: float) -> list[float]:
        return list(map(max, values, *self.sent))


@pytest.mark.parametrize(("first", "second", "expected"), [(0, 15, (15, 1)), (15, 0, (15, 0)), (15, 15, (15, 0))])
def test_all_processes_know_which_one_got_the_signal(first: int, second: int, expected: tuple[int, int]) -> None:
    told, found = list[tuple[float, ...]](), set[tuple[int | None, int]]()
    for sent in (), told:  # what the others have sent is known in the second round
        for rank, number in enumerate((0, first, second, 0)):
            stop = StopRequests()
            stop.signal = number or None
            if not sent:
                with suppress(StopRequested):
                    stop_together(Agreeing(rank=rank, count=4, told=told), stop)
                continue
            with pytest.raises(StopRequested):
                stop_together(Exchanging(rank=rank, count=4, sent=tuple(sent)), stop)
            found.add((stop.signal, stop.process))
    assert found == {(expected[0], expected[1] + 1)}


@pytest.mark.parametrize(
    ("number", "count", "launched", "launcher_too", "expected"),
    [
        (None, 2, True, False, "train.time_limit"),
        (15, 1, True, False, "SIGTERM"),
        (15, 2, False, False, "SIGTERM"),  # by torchrun, which may have passed it on
        (15, 2, True, True, "SIGTERM"),
        (15, 2, True, False, "SIGTERM (sent to process 1 of 2)"),
    ],
)
def test_what_stopped_a_run(
    number: int | None,
    count: int,
    launched: bool,
    launcher_too: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RCNN_LAUNCHED", "1" if launched else "")
    monkeypatch.setattr(saver, "launcher_was_signalled", lambda: launcher_too)
    monkeypatch.setattr("rcnn.stopping._LAUNCHERS", [])
    state: Any = SimpleNamespace(processes=Processes(count=count), step=1, best=None)
    run: Any = SimpleNamespace(path=tmp_path)
    nothing: Any = None
    stop = StopRequests()
    stop.signal, stop.process = number, 1
    due = saver.Saver(state, SETTINGS, run, nothing, nothing)
    outcome = due.outcome(stop=stop)
    assert (outcome.finished, outcome.signal, outcome.stopped_by) == (False, number, expected)
    assert due.outcome().finished
    monkeypatch.setattr("rcnn.stopping._LAUNCHERS", [os.getppid() + 1])
    ended = due.outcome(stop=stop).stopped_by
    launcher = "the process that started it (--devices, --max-restarts or torchrun)"
    assert ended == (expected if number is None else f"the end of {launcher}")


@pytest.mark.parametrize("when", ["before", "meanwhile", "never"])
def test_a_signal_ends_what_the_first_process_computes_for_all(when: str) -> None:
    """E.g. the metrics of a large validation set, or the pictures: torchrun waits for 30 seconds only."""
    stop, done = StopRequests(), list[str]()

    def compute() -> str:
        done.append("begun")
        if when == "meanwhile":
            stop.handle(signal.SIGTERM, None)
        done.append("ended")
        return "metrics"

    def stopping() -> None:
        stop_together(agreeing, stop)

    agreeing = Sharing(count=2, told=[])
    processes = replace(agreeing, stopping=stopping, unless_stopped=stop.unless_stopped)
    if when == "before":
        stop.handle(signal.SIGTERM, None)
    if when == "never":
        assert processes.from_first(compute) == "metrics"
    else:
        with pytest.raises(StopRequested):
            processes.from_first(compute)
    assert done == {"before": [], "meanwhile": ["begun"], "never": ["begun", "ended"]}[when]
    assert len(agreeing.told) == 1  # the others stop too
    assert agreeing.shared == [(None if when != "never" else "metrics")]


def test_the_processes_wait_for_the_charts_of_the_first(tmp_path: Path) -> None:
    """They wait as long as it is at work, not only for the time of a step."""
    events = list[str]()

    class Waiting(Processes):
        @override
        def wait(self) -> None:
            events.append("wait")

    def charts() -> None:
        events.append("charts")

    state = TrainState.start(tiny(), replace(SETTINGS, steps=2), Waiting())
    state.step, state.evaluation_due = 1, True
    with RunFolder(tmp_path, classes=("a", "b"), provenance={}) as run:
        due = saver.Saver(state, SETTINGS, run, SilentLog(), lambda detector: {"bbox": {"AP": 0.0}}, charts)
        due.evaluate_if_due(StopRequests())
    assert events[-2:] == ["charts", "wait"]


def test_a_checkpoint_that_a_killed_process_left_out_is_written_when_the_run_is_resumed(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=2, keep=2)
    train(tiny(), stream, settings, tmp_path)
    kept = load_checkpoint(tmp_path / "step-2").state
    shutil.rmtree(tmp_path / "step-2")
    train(tiny(), stream, replace(settings, steps=3), tmp_path, resume=True)
    again = load_checkpoint(tmp_path / "step-2").state
    assert all(torch.equal(value, again[name]) for name, value in kept.items())


def test_a_kept_checkpoint_is_written_once_at_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = list[str](), RunFolder.save

    def noting(run: RunFolder, name: str, *given: Any, **more: Any) -> None:
        written.append(name)
        save(run, name, *given, **more)

    monkeypatch.setattr(RunFolder, "save", noting)
    settings = replace(SETTINGS, steps=2, keep=1, evaluate_every=1)
    train(tiny(), stream, settings, tmp_path, evaluate=lambda detector: {"bbox": {"AP": 0.0}})
    assert written == ["step-1", "best", "step-2"]
