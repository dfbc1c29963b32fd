"""What a run evaluates and saves."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

from rcnn.runtime.processes import Processes
from rcnn.training import saver
from rcnn.training.run_folder import RunFolder
from rcnn.training.signals import StopRequested, StopRequests
from rcnn.weights.checkpoint import load_checkpoint
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream, tiny


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
    assert told == [(0, 0, 0)] * meanwhile + [(number, expired, 0)]
    assert state.processes.stopping is None


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
