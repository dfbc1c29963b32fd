"""An RPN alone, trained on several classes and evaluated by recall, as pycocotools does without classes."""

from __future__ import annotations

import contextlib
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.cli.eval import evaluate as eval_command
from rcnn.data import open_dataset
from rcnn.evaluation.api import evaluate as evaluate_model
from rcnn.metrics.coco import evaluate
from rcnn.metrics.tables import metrics_table
from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import load_detector
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco
from tests.unit.random_truth import random_results, random_truth
from tests.unit.training.runs import run

WORDS = [word for word in TINY_MODEL if not word.startswith(("mask.", "mask=", "box."))]
BRIEF = ["train.steps=2", "train.batch_size=2", "train.workers=0", "train.log_every=1", "train.warmup_steps=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 4, "val": 2}, size=(64, 96))


def recall_without_classes(truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """pycocotools' recall (T, A, M) of 100 and 1000 boxes an image, whatever their class."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes([{k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in results])
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


def test_recall_is_pycocotools_without_classes() -> None:
    truth = random_truth(seed=3)
    results = random_results(truth, seed=4)
    wanted = recall_without_classes(truth, results)  # of areas all, small, medium, large
    one = deepcopy(truth) | {"categories": [{"id": 1, "name": "object"}]}
    for entry in (*one["annotations"], *results):
        entry["category_id"] = 1
    found = evaluate(one, results, ("bbox", "proposals"))
    numbers = found.kinds["proposals"]

    def mean(area: int, limit: int) -> float:
        values = wanted[:, area, limit]
        return float(values[values > -1].mean())

    assert 0.1 < mean(0, 1) < 1
    expected = {"AR100": (0, 0), "AR1000": (0, 1), "AR1000s": (1, 1), "AR1000m": (2, 1), "AR1000l": (3, 1)}
    assert set(numbers) == set(expected)
    for name, place in expected.items():
        assert numbers[name] == pytest.approx(mean(*place), abs=1e-12)
    text = metrics_table(found)
    assert "AR1000l" in text
    assert "recall of the best 1000 proposals per image" in text


def test_a_data_set_as_one_class(data: Path) -> None:
    plain, one = open_dataset(data, "train"), open_dataset(data, "train", one_class=True)
    assert one.classes == ("object",)
    assert set(plain.objects.labels.tolist()) == {0, 1}
    assert set(one.objects.labels.tolist()) == {0}
    truth, ours = plain.to_coco(), one.to_coco()
    assert [a["bbox"] for a in ours["annotations"]] == [a["bbox"] for a in truth["annotations"]]
    assert {a["category_id"] for a in ours["annotations"]} == {1} == {c["id"] for c in ours["categories"]}
    assert open_dataset(data, "train", ["thing"], one_class=True).classes == ("thing",)


def test_an_rpn_trains_on_any_data_set_and_is_measured_by_recall(data: Path, tmp_path: Path) -> None:
    words = [*WORDS, "mask=null", "proposals_only=true", *BRIEF, "train.best=proposals.AR1000"]
    run("mask_rcnn_compact", data, tmp_path / "run", words)
    detector, checkpoint = load_detector(tmp_path / "run")
    assert checkpoint.classes == ("object",)
    assert detector.box_head is None
    assert len(CLASSES) == 2
    settings = {"ignore_other_classes": False, "limit": 0, "batch_size": 1, "workers": 1, "device": "cpu"}
    eval_command(tmp_path / "run", data, split="val", output=tmp_path / "measured", **settings)
    metrics = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    results = json.loads((tmp_path / "measured" / "results_proposals.json").read_text())
    expected = recall_without_classes(open_dataset(data, "val").to_coco(), [r | {"category_id": 10} for r in results])
    assert results
    opened = open_dataset(data, "val")  # with its own classes
    for model in (tmp_path / "run", Predictor(tmp_path / "run", device="cpu")):
        measured = evaluate_model(model, opened, device="cpu").metrics.kinds["proposals"]["AR1000"]
        assert measured == pytest.approx(metrics["proposals"]["AR1000"])
    assert metrics["proposals"]["AR1000"] == pytest.approx(float(expected[:, 0, 1].mean()))
