"""Data sets that are passed to `rcnn.train`, and the arguments that go with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rcnn
from rcnn.training.request import RunRequest
from rcnn.training.resume_checks import as_recorded
from tests.tiny_data import write_tiny_coco
from tests.unit.training.test_run_data import planned


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a validation split."""
    return write_tiny_coco(tmp_path_factory.mktemp("several"), {"train": 2, "val": 2}, size=(48, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "data is a Dataset, so split would have no effect: give it to rcnn.open_dataset"),
        ({"images": "a", "relative_boxes": True}, "so images, relative_boxes would have no effect: give them to"),
        ({"annotations": "a.json"}, "so annotations would have no effect"),
        ({"val_splits": ("val",)}, "val_split=val names a split of a folder, but data is a Dataset: pass"),
    ],
)
def test_arguments_that_data_sets_from_python_would_ignore_are_refused(
    several: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(rcnn.open_dataset(several, "train"), **options)


def test_contradicting_validation_data_are_refused(several: Path) -> None:
    training, validation = rcnn.open_dataset(several, "train"), rcnn.open_dataset(several, "val")
    with pytest.raises(ValueError, match=r"validation is a Dataset, but data is the path .*several"):
        planned(several, validation=validation)
    with pytest.raises(ValueError, match="val_split=none means no evaluation, but validation is given"):
        planned(training, validation=validation, val_splits=("none",))
    assert planned(training, val_splits=("none",)).validations == ()


def test_two_data_sets_of_the_same_split_name_are_both_recorded(several: Path) -> None:
    training, validation = rcnn.open_dataset(several, "train"), rcnn.open_dataset(several, "train").subset([0])
    identity = planned(training, validation=validation).identity
    assert {name: one["images"] for name, one in identity.items()} == {"train": 2, "train (validation)": 1}


def test_a_resumed_run_keeps_the_validation_set_that_was_passed(several: Path, tmp_path: Path) -> None:
    training, validation = rcnn.open_dataset(several, "train"), rcnn.open_dataset(several, "val")
    plan, request = planned(training, validation=validation), RunRequest(data=training, output=tmp_path)
    record = json.loads(json.dumps(plan.record()))
    with pytest.raises(ValueError, match=rf"validation is missing: the run in {tmp_path} is evaluated on val\. Pass"):
        as_recorded(request, record)
    assert as_recorded(replace(request, validation=validation), record).val_splits == ("val",)
    without = json.loads(json.dumps(planned(training).record()))
    assert as_recorded(request, without).val_splits == ("none",)
    with pytest.raises(ValueError, match="validation cannot change when a run is resumed: it is none in"):
        as_recorded(replace(request, validation=validation), without)
