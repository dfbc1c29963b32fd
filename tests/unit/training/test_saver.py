"""What a run evaluates and saves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

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


def test_a_process_at_its_time_limit_still_shares_its_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of several processes differ: the others wait for the statistics of this one."""
    shared = list[nn.Module]()

    def share(detector: nn.Module, processes: Processes) -> None:
        shared.append(detector)

    monkeypatch.setattr(saver, "share_buffers", share)
    state: Any = SimpleNamespace(processes=Processes(), evaluated=nn.Identity(), evaluation_due=True, step=1)
    nothing: Any = None
    stop = StopRequests(1e-9)
    while not stop.expired:
        pass
    due = saver.Saver(state, SETTINGS, nothing, nothing, lambda detector: {})
    with pytest.raises(StopRequested):
        due.evaluate_if_due(stop)
    assert shared == [state.evaluated]


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
