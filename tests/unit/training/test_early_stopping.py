"""Early stopping: which evaluations end a run, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rcnn.models import Detector
from rcnn.training.log import read_log
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream, tiny


def test_a_run_does_not_end_early_before_its_first_detection(tmp_path: Path) -> None:
    values = iter([0.0, 0.0, 0.0, 0.3, 0.2])

    def evaluate(detector: Detector) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": next(values)}}

    settings = replace(SETTINGS, steps=6, evaluate_every=1, patience=1)
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=evaluate)
    assert (outcome.step, outcome.best) == (5, 0.3)


@pytest.mark.parametrize(
    ("schedule", "ends_at"),
    [
        ({"milestones": (0.25, 0.5)}, 6),  # 10 steps: the learning rate is at its lowest after 5
        ({"milestones": (2, 7, 12)}, 8),  # the last one is after the run
        ({"cosine": True}, 9),  # (1 + cos(.8 pi)) / 2 = .0955, (1 + cos(.7 pi)) / 2 = .206
        ({"milestones": ()}, 3),  # a constant learning rate: at once
    ],
)
def test_a_run_does_not_end_early_before_the_learning_rate_has_decayed(
    schedule: dict[str, Any], ends_at: int, tmp_path: Path
) -> None:
    def evaluate(detector: Detector) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": 0.5}}  # a plateau from the first evaluation on

    settings = replace(SETTINGS, steps=10, evaluate_every=1, patience=2, **schedule)
    assert train(tiny(), stream, settings, tmp_path, evaluate=evaluate).step == ends_at


def test_the_lowest_learning_rate_is_evaluated_before_a_run_ends_early(tmp_path: Path) -> None:
    """The patience is over after 8 steps, the last decay comes after 9: the evaluation after 12 steps decides."""

    def evaluate(detector: Detector) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": 0.5}}

    settings = replace(SETTINGS, steps=20, evaluate_every=4, patience=1, milestones=(9,), checkpoint_every=5)
    assert train(tiny(), stream, replace(settings, steps=10), tmp_path, evaluate=evaluate).step == 10
    found: list[int] = []
    for _ in range(2):  # a run that ended early ends at once when it is resumed
        found.append(train(tiny(), stream, settings, tmp_path, evaluate=evaluate, resume=True).step)
    assert found == [12, 12]
    assert [line["step"] + 1 for line in read_log(tmp_path / "log.jsonl") if "bbox_AP" in line] == [4, 8, 10, 12]


def test_evaluations_that_are_not_better_end_a_run_early_and_for_good(tmp_path: Path) -> None:
    values = iter([0.1, 0.5, 0.5, 0.4, 0.6])

    def evaluate(detector: Detector) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": next(values)}}

    settings, printed = replace(SETTINGS, steps=6, evaluate_every=1, patience=2), list[str]()
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=evaluate, printed=printed)
    assert (outcome.finished, outcome.step, outcome.best) == (True, 4, 0.5)
    early = "stopped early after 4 of 6 steps: no improvement in 2 evaluations (best 0.5000; train.patience=2)"
    assert printed[-1] == early
    since = [line["since_best"] for line in read_log(tmp_path / "log.jsonl") if "bbox_AP" in line]
    assert since == [0, 0, 1, 2]
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=evaluate, resume=True)
    assert (outcome.finished, outcome.step) == (True, 4)
    settings = replace(settings, steps=5, patience=3)  # typed for the run that is resumed
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=evaluate, resume=True)
    assert (outcome.finished, outcome.step, outcome.best) == (True, 5, 0.6)
