"""The metrics of an evaluation during training, in one and in two processes, are pycocotools' numbers."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typing_extensions import override as override_method

from rcnn.data import open_dataset
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.runtime.processes import ALONE, Processes
from rcnn.training.settings import TrainConfig
from rcnn.training.validation import evaluate_detector
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco
from tests.unit.training.process_runs import in_processes

T = TypeVar("T")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def detector() -> Detector:
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    return build_detector(override(model_config("mask_rcnn_compact"), words))


def metrics_of(processes: Processes, data: Path) -> dict[str, float | None]:
    """What a run logs of its validation set."""
    dataset, settings = open_dataset(data, "val", CLASSES), TrainConfig(workers=1)
    found = evaluate_detector(
        detector(), [dataset], settings, torch.device("cpu"), lambda done, total: None, print, processes
    )
    return found["bbox"]


def with_detections_as_ground_truth(data: Path) -> list[dict[str, Any]]:
    """Detections of the validation images; their ground truth becomes every third one, moved by up to 2 pixels."""
    predictor, results = Predictor(detector(), classes=CLASSES, device="cpu"), list[dict[str, Any]]()
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    tables["annotations"] = []
    for image in tables["images"]:
        found = predictor.predict(data / "val" / image["file_name"])
        for number, (box, score, label) in enumerate(zip(found.boxes, found.scores, found.labels, strict=True)):
            x, y, right, bottom = (float(side) for side in box)
            one = {"image_id": image["id"], "category_id": tables["categories"][int(label)]["id"]}
            one |= {"bbox": [x, y, right - x, bottom - y]}
            results.append(one | {"score": float(score)})
            if number % 3 == 0:
                moved = [x, y, right - x - number % 2, bottom - y - number % 5 / 2]
                area, key = moved[2] * moved[3], len(tables["annotations"]) + 1
                tables["annotations"].append(one | {"bbox": moved, "area": area, "iscrowd": 0, "id": key})
    file.write_text(json.dumps(tables))
    return results


def by_pycocotools(data: Path, results: list[dict[str, Any]]) -> dict[str, float | None]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "annotations" / "instances_val.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: None if value < 0 else value for name, value in zip(NAMES, evaluation.stats.tolist(), strict=True)}


def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 5}, size=(64, 96))
    expected = by_pycocotools(data, with_detections_as_ground_truth(data))
    assert 0.1 < (expected["AP"] or 0) < 0.9
    first, second = in_processes(2, tmp_path / "two", partial(metrics_of, data=data))
    assert first == second == metrics_of(ALONE, data) == pytest.approx(expected, abs=1e-6)


EVENTS = list[str]()


class Recording(Processes):
    """One process that notes what it sends to others, which wait for it."""

    @override_method
    def share(self, value: T) -> T:
        """Note the value."""
        EVENTS.append(str(value))
        return value


def test_the_processes_wait_for_the_thresholds_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def thresholds(*_: object) -> str:
        EVENTS.append("measured")
        return "thresholds"

    monkeypatch.setattr("rcnn.training.validation.measure_thresholds", thresholds)
    EVENTS.clear()
    metrics_of(Recording(), write_tiny_coco(tmp_path, {"val": 1}))
    assert EVENTS[-2:] == ["measured", "thresholds"]
