"""What a run evaluates and saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from rcnn.runtime.processes import Processes
from rcnn.training import saver
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
