"""What `rcnn eval` does after the last image: nothing is read, checked or matched again that was before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data import Dataset, open_dataset
from rcnn.drawing.report import Example
from rcnn.evaluation import evaluate, examples
from rcnn.evaluation.evaluate import evaluate_dataset
from rcnn.evaluation.plan import EvaluationOptions, Plan
from rcnn.evaluation.run import run_evaluation
from rcnn.metrics import checks, coco, inputs
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from tests.tiny_data import CLASSES, write_tiny_coco


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images."""
    return open_dataset(write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96)), "val", CLASSES)


def test_ground_truth_is_read_once_and_a_models_results_are_not_checked(
    predictor: Predictor, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if len(arguments[0]):  # the last batch may be empty
                calls.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(Dataset, "to_coco", counting("read", Dataset.to_coco))
    monkeypatch.setattr(inputs, "check_ground_truth", counting("ground truth", checks.check_ground_truth))
    monkeypatch.setattr(inputs, "check_results", counting("results", checks.check_results))
    monkeypatch.setattr(coco, "check_fields", counting("fields", checks.check_fields))
    done = run_evaluation(
        predictor, dataset, tmp_path / "out", options=EvaluationOptions(), title="t", details={}, log=print
    )
    assert len(done.results) > 3
    assert calls == ["read", "ground truth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.array([[0, 0, 9, np.nan]], np.float32)}, r"bbox \[0.0, 0.0, 9.0, nan\]"),
        ({"boxes": np.array([[9, 0, 0, 9]], np.float32)}, r"bbox \[9.0, 0.0, -9.0, 9.0\]"),
        ({"scores": np.array([np.inf], np.float32)}, "score inf"),
    ],
)
def test_detections_of_a_model_that_are_not_finite_are_refused(
    change: dict[str, Any], message: str, predictor: Predictor, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ImageDetections(
        boxes=np.array([[0, 0, 9, 9]], np.float32),
        labels=np.zeros(1, np.int64),
        scores=np.ones(1, np.float32),
        height=64,
        width=96,
    )
    assert evaluate._are_sound(found)
    assert not evaluate._are_sound(replace(found, keypoints=np.full((1, 2, 3), np.nan, np.float32)))

    def detect(*_: Any) -> Iterator[ImageDetections]:
        yield replace(found, **change)

    def plan_for(*_: Any, **__: Any) -> Plan:
        return Plan(kinds=("bbox",))

    monkeypatch.setattr(Predictor, "detect", detect)
    monkeypatch.setattr(evaluate, "plan_for", plan_for)
    with pytest.raises(ValueError, match=message):
        evaluate_dataset(predictor, dataset)


def test_pictures_keep_their_order_and_unreadable_ones_are_replaced() -> None:
    """The first images take longest, and two threads draw them."""
    lines: list[str] = []

    def draw(number: int) -> Example | str:
        time.sleep(0.02 / (number + 1))
        return f"no {number}" if number in (1, 2, 4) else Example(name=str(number), detections=Image.new("RGB", (1, 1)))

    drawn = examples._drawn(draw, range(9), 4, lines.append)
    assert [example.name for example in drawn] == ["0", "3", "5", "6"]
    assert lines == ["no 1", "no 2", "no 4"]
    assert len(examples._drawn(draw, range(9), 8, lines.append)) == 6
    assert examples._drawn(draw, range(9), 0, lines.append) == []
