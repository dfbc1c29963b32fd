"""Which splits a run trains on and evaluates."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.training.request import RunRequest
from rcnn.training.run_data import choose_splits
from tests.tiny_data import write_tiny_coco


def test_one_annotation_file_has_only_the_split_that_the_user_names(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"train": 2, "val": 1})
    request = RunRequest(data=data, split="train", annotations="annotations/instances_train.json")
    training, validations, reasons = choose_splits(request)
    assert (training, validations, list(reasons)) == ("train", (), ["val-split"])
    with pytest.raises(ValueError, match=r"with split \(--split\), or give the file itself .*/annotations/inst"):
        choose_splits(RunRequest(data=data, annotations=request.annotations))
    pattern = "annotations/instances_{split}.json"
    assert choose_splits(RunRequest(data=data, split="train", annotations=pattern))[1] == ("val",)
