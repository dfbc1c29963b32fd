"""Entries of data.yaml that cannot be used: repeated keys, values that are not paths, names that are not text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rcnn.data import open_dataset
from tests.unit.data.test_yolo import YAML, place


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "names: [a]\n" + YAML.replace("val: images/val\n", ""),
            "1 key has more than one value (names): the last one is used",
        ),
        (
            "train: images/train\nnames: {0: kite, 1: cup, 1: mug}\n",
            "1 key has more than one value (names: 1): the last one is used",
        ),
        (
            "train: images/train\nnames: {1: cup, 0: kite, 00: mug, 0x0: hat}\n",
            "1 key has more than one value (names: 0): the last one is used",
        ),
        ("train: [images/train, null]\nnames: [kite, cup]\n", "has the value null, which is not a path (train): "),
        (
            "train: [images/train, 5]\nnames: [kite, cup]\n",
            "has the value 5, which is not a path (train): skipped",
        ),
        ("path: 5\ntrain: images/train\nnames: [kite, cup]\n", "has the value 5, which is not a path (path): "),
        (
            "train: [images/train, 5, 6]\nnames: [kite, cup]\n",
            "has the values 5, 6, which are not paths (train): ",
        ),
        (
            "train: images/train\nval: 5\nnames: [kite, cup]\n",
            "has the value 5, which is not a path (val): skipped",
        ),
        (
            "train: images/train\nval: 0\nnames: [kite, cup]\n",
            "has the value 0, which is not a path (val): skipped",
        ),
    ],
)
def test_entries_of_data_yaml_that_are_not_used(tmp_path: Path, config: str, expected: str) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(config)
    text = "\n".join(open_dataset(tmp_path, "train").warnings)
    assert expected in text, text
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [.nan, cup]\n")
    with pytest.raises(ValueError, match="name 0 is nan; expected text"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize(("value", "shown"), [("5", "the value 5"), ("[5, true]", "the values 5, true")])
def test_a_split_of_a_wrong_type_is_not_called_missing(tmp_path: Path, value: str, shown: str) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: {value}\nnames: [kite]\n")
    with pytest.raises(ValueError, match=rf"data\.yaml: val has {re.escape(shown)}, which (is|are) not .*; correct it"):
        open_dataset(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="has no split 'test'; it has train"):
        open_dataset(tmp_path, "test")


def test_a_whole_number_of_any_size_is_a_name(tmp_path: Path) -> None:
    """No float holds it."""
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: [{10**400}, cup]\n")
    assert open_dataset(tmp_path, "train").classes[0].startswith("10000")


@pytest.mark.parametrize(
    "config",
    [
        "a: &a {nc: 2}\nb: &b {kind: toys}\n<<: *a\n<<: *b\ntrain: images/train\nnames: [kite, cup]\n",
        "path:\ntrain: images/train\nval:\ntest: ''\nnames: {0: kite, 1: cup}\ndownload: https://example.com/a.zip\n",
    ],
)
def test_usual_entries_are_not_reported(tmp_path: Path, config: str) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(config)
    assert open_dataset(tmp_path, "train").warnings == ()
