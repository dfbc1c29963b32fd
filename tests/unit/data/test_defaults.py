"""The splits that are used if the user does not choose any."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data.defaults import default_training_split, default_validation_split
from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.divide import split_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.data.inspect.info import describe_dataset
from rcnn.data.opening import splits
from rcnn.drawing.browse import browse_dataset
from rcnn.training.request import RunRequest
from rcnn.training.run_data import choose_splits
from tests.tiny_data import write_tiny_coco


@pytest.mark.parametrize(
    ("names", "training", "validation"),
    [
        (["test", "train", "val"], "train", "val"),
        (["Test", "Train", "Validation"], "Train", "Validation"),
        (["all"], "all", ""),
        (["part1", "part2"], "", ""),
        (["TRAIN2014", "MiniVal2014", "ValMinusMinival2014"], "TRAIN2014", "MiniVal2014"),
    ],
)
def test_splits_are_chosen_by_their_names_in_any_case(names: list[str], training: str, validation: str) -> None:
    assert default_training_split(names) == training
    assert default_validation_split(names, training) == validation


def test_training_and_the_description_of_the_data_choose_the_same_split(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"Photos": 1, "Train": 2, "Val": 1}, size=(48, 64))
    split, validations, reasons = choose_splits(RunRequest(model="mask_rcnn_compact", data=data))
    assert (split, validations) == ("Train", ("Val",))
    assert reasons["split"] == "its name starts with 'train'"
    found = describe_dataset(data)
    assert found.suggestion == describe_dataset(data, split="Train").suggestion
    assert splits(data) == ["Photos", "Train", "Val"]


def test_a_list_of_images_may_be_a_path(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 12}, size=(48, 64))
    ids = data / "ids.txt"
    ids.write_text("".join(f"{number}\n" for number in range(1, 12)))
    assert sum(check_dataset(data, split=ids, no_images=True).images.values()) == 11
    assert [len(one.image_sizes) for one in describe_dataset(data, split=ids).splits] == [11]
    assert browse_dataset(data, tmp_path / "page", split=ids, limit=1).failed == ()
    assert split_dataset(data, (0.8, 0.2), tmp_path / "parts", split=ids)
    with pytest.raises(
        ValueError, match=r"ids\.txt \(--split\) is a list of images; expected splits, which are copied whole"
    ):
        fix_dataset(data, tmp_path / "fixed", split=ids)
