"""What an evaluation measures where objects are ignored, and arguments that it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import open_dataset
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.plan import EvaluationOptions, plan_evaluation
from rcnn.predictor import Predictor
from tests.tiny_data import CLASSES, write_tiny_coco
from tests.unit.evaluation.test_evaluate import change_annotations

Entry = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images for validation."""
    return write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))


def test_numbers_of_numpy_become_those_of_python() -> None:
    five: Any = np.int64(5)
    options = EvaluationOptions(limit=five, workers=five, max_detections=five, boundary=np.True_)  # type: ignore[arg-type]
    written = json.loads(json.dumps(asdict(options)))
    assert [written[name] for name in ("limit", "workers", "max_detections", "boundary")] == [5, 5, 5, True]


@pytest.mark.parametrize("ignored", ["iscrowd", "difficult"])
def test_masks_are_not_evaluated_where_only_ignored_objects_have_no_outline(ignored: str, data: Path) -> None:
    def change(tables: Entry) -> None:
        for annotation in tables["annotations"]:
            if annotation["image_id"] == 1:
                annotation[ignored] = 1
                del annotation["segmentation"]

    change_annotations(data, change)
    dataset = open_dataset(data, "val", CLASSES)
    for metric in ("coco", "voc2012"):
        assert plan_evaluation(("bbox", "segm"), dataset, limit=1, metric=metric).kinds == ("bbox",)
        assert plan_evaluation(("bbox", "segm"), dataset, metric=metric).kinds == ("bbox", "segm")


def test_what_chooses_the_images_of_a_path_is_refused_for_a_data_set(predictor: Predictor, data: Path) -> None:
    dataset = open_dataset(data, "val", CLASSES)
    with pytest.raises(ValueError, match="data is a Dataset, so split, strict would have no effect: give them to"):
        evaluate(predictor, dataset, split="train", strict=True)
    with pytest.raises(ValueError, match=r"so images would have no effect: give it to rcnn\.open_dataset"):
        evaluate(predictor, dataset, images=data)
