"""EMA of the weights: against a loop over stored steps; evaluation, checkpoints and resuming."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.training.ema import EMA
from rcnn.training.settings import TrainConfig
from rcnn.weights.checkpoint import load_checkpoint
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stopping, stream, tiny

AVERAGED = replace(SETTINGS, steps=4, ema=0.9)
METRICS: dict[str, object] = {"bbox": {"AP": 0.1, "AP50": 0.2}, "segm": {"AP": 0.1, "AP50": 0.2}, "per_class": {}}


def after_each_step(folder: Path, steps: int) -> list[dict[str, Tensor]]:
    """Weights after each number of steps, from runs of that length without EMA."""
    found = []
    for count in range(1, steps + 1):
        detector = tiny()
        train(detector, stream, replace(SETTINGS, steps=count), folder / str(count))
        found.append({name: value.clone() for name, value in detector.state_dict().items()})
    return found


def test_the_ema_equals_a_loop_and_is_evaluated_and_saved_as_best(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def evaluate(detector: Detector) -> dict[str, object]:
        seen.append(copy.deepcopy(detector.state_dict()))
        return METRICS

    trained = tiny()
    train(trained, stream, replace(AVERAGED, evaluate_every=0), tmp_path / "run", evaluate=evaluate)
    steps = after_each_step(tmp_path, 4)
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in steps[-1].items())
    expected = {name: value.double() for name, value in tiny().state_dict().items()}
    for number, values in enumerate(steps):
        keep = min(0.9, (1 + number) / (10 + number))
        expected = {name: keep * expected[name] + (1 - keep) * values[name].double() for name in expected}
    for name, value in expected.items():
        if value.dtype.is_floating_point and not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(seen[-1][name].double(), value, atol=1e-6, rtol=1e-5, msg=name)
        else:
            assert torch.equal(seen[-1][name], steps[-1][name]), name
    best = load_checkpoint(tmp_path / "run" / "best").state
    assert all(torch.equal(best[name], value) for name, value in seen[-1].items())
    last = load_checkpoint(tmp_path / "run" / "last").state
    assert all(torch.equal(last[name], value) for name, value in steps[-1].items())


def test_without_a_validation_set_the_ema_is_saved_separately(tmp_path: Path) -> None:
    train(tiny(), stream, AVERAGED, tmp_path)
    averaged, last = (load_checkpoint(tmp_path / name).state for name in ("averaged", "last"))
    assert averaged.keys() == last.keys()
    assert any(not torch.equal(averaged[name], value) for name, value in last.items())


def test_a_stopped_run_resumes_its_ema(tmp_path: Path) -> None:
    train(tiny(), stream, AVERAGED, tmp_path / "whole")
    train(tiny(), stopping(1, signal.SIGINT), AVERAGED, tmp_path / "broken")
    train(tiny(), stream, AVERAGED, tmp_path / "broken", resume=True)
    whole, broken = (load_checkpoint(tmp_path / name / "averaged").state for name in ("whole", "broken"))
    assert all(torch.equal(broken[name], value) for name, value in whole.items())


def test_an_ema_enabled_on_resume_starts_at_the_current_weights(tmp_path: Path) -> None:
    train(tiny(), stream, replace(SETTINGS, steps=2), tmp_path)
    before = load_checkpoint(tmp_path / "last").state
    again = tiny()
    train(again, stream, replace(AVERAGED, steps=3), tmp_path, resume=True)
    expected = EMA(tiny(), 0.9)
    expected.detector.load_state_dict(before)
    expected.update(again, 2)
    kept = load_checkpoint(tmp_path / "averaged").state
    assert all(torch.equal(kept[name], value) for name, value in expected.detector.state_dict().items())


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_an_unknown_part_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"train\.ema"):
        TrainConfig(ema=value)
