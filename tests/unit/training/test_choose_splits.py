"""Which splits a run trains on and evaluates, and a warning about their classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rcnn
from rcnn.training.describe import describe_plan, describe_start
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from rcnn.training.run_data import choose_splits
from tests.tiny_data import TINY_MODEL, write_tiny_coco


def test_one_annotation_file_has_only_the_split_that_the_user_names(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"train": 2, "val": 1})
    request = RunRequest(data=data, split="train", annotations="annotations/instances_train.json")
    training, validations, reasons = choose_splits(request)
    assert (training, validations, list(reasons)) == ("train", (), ["val-split"])
    with pytest.raises(ValueError, match=r"with split \(--split\), or give the file itself .*/annotations/inst"):
        choose_splits(RunRequest(data=data, annotations=request.annotations))
    pattern = "annotations/instances_{split}.json"
    assert choose_splits(RunRequest(data=data, split="train", annotations=pattern))[1] == ("val",)


def test_a_class_with_a_misspelt_name_is_warned_of(tmp_path: Path) -> None:
    """The line is that of `rcnn data check`; --dry-run prints it too."""
    data = write_tiny_coco(tmp_path / "data", {"train": 8, "val": 2}, size=(48, 64))
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        tables = json.loads(file.read_text())
        tables["categories"] = [{"id": 10, "name": "person"}, {"id": 20, "name": "pesron"}]
        for entry in tables["annotations"]:
            entry["category_id"] = 20 if (split, entry["id"]) in (("train", 1), ("val", 1)) else 10
        file.write_text(json.dumps(tables))
    [line] = [one.line() for one in rcnn.check_dataset(data, only=["rare-similar-class"]).findings]
    assert "'pesron' (2, like 'person' with 18)" in line
    plan = plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=TINY_MODEL, device="cpu"))
    assert plan.warnings.count(line) == 1
    for lines in (describe_start(plan), describe_plan(plan)):
        assert f"warning: {line}" in list(lines)
