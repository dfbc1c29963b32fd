"""`rcnn data split`: the parts are those of `divide`, complete, and readable as COCO."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.inspect.divide import Division, split_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.data.split import divide
from rcnn.outputs import MARKER
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco
from tests.unit.data.format_folders import labelme_file, labelme_shape


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_coco(tmp_path / "data", {"train": 20})


def test_the_parts_are_those_of_divide(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my parts"
    assert rcnn("data", "split", root, "--fractions", ".8,.2", "--output", out) == 0
    printed = capsys.readouterr().out
    assert "images" in printed
    assert f"use it with --data '{out}'" in printed
    whole = open_dataset(root, "train")
    assert splits(out) == ["train", "val"]
    for name, places in zip(("train", "val"), divide(whole, (0.8, 0.2)), strict=True):
        part = open_dataset(out, name)
        assert part.image_ids == tuple(whole.image_ids[place] for place in places)
        assert part.classes == whole.classes
        for own, place in enumerate(places):
            assert part[own].path.read_bytes() == whole[place].path.read_bytes()
            assert part[own].annotation_ids == whole[place].annotation_ids
            assert part[own].boxes.tolist() == whole[place].boxes.tolist()
    train, val = (open_dataset(out, name) for name in ("train", "val"))
    assert (len(train), len(val)) == (16, 4)
    assert set(train.image_ids) | set(val.image_ids) == set(whole.image_ids)
    objects = [np.bincount(one.objects.labels, minlength=len(whole.classes)) for one in (train, val)]
    assert (np.abs(objects[1] - 0.2 * sum(objects)) <= 1).all(), "the share of each class"


def test_within_the_data_set_only_annotation_files_are_added(root: Path) -> None:
    division = split_dataset(root, (0.5, 0.3, 0.2), root, names=("a", "b", "c"))
    assert sum(division.images.values()) == 20
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["annotations", "train"]
    assert sum(len(open_dataset(root, name)) for name in "abc") == 20
    assert open_dataset(root, "a")[0].path.parent == root / "train"


def test_a_link_to_the_data_set_is_the_data_set(root: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (link := tmp_path / "links" / "data").symlink_to(root)
    split_dataset(root, (0.5, 0.5), link, names=("a", "b"))
    assert sum(len(open_dataset(root, name)) for name in "ab") == 20


def test_images_outside_the_data_set_are_not_divided_within_it(root: Path, tmp_path: Path) -> None:
    (root / "train").rename(elsewhere := tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"20 images of .*train\.json are outside .*choose another output folder"):
        split_dataset(root, (0.5, 0.5), root, names=("a", "b"), images=elsewhere)
    assert splits(root) == ["train"]
    split_dataset(root, (0.5, 0.5), tmp_path / "out", images=elsewhere)
    assert sum(len(open_dataset(tmp_path / "out", name)) for name in ("train", "val")) == 20


def test_later_edits_of_the_original_labels_are_reported(root: Path, tmp_path: Path) -> None:
    labels = root / "annotations" / "instances_train.json"
    division = split_dataset(root, (0.8, 0.2), root, names=("a", "b"))
    assert f"After editing {labels}, remove annotations" in division.lines()[-1]
    assert split_dataset(root, (0.8, 0.2), tmp_path / "copy", split="train").original is None
    assert open_dataset(root, "a").notes == ()
    later = time.time() + 10
    os.utime(labels, (later, later))
    [note] = open_dataset(root, "b").notes
    assert "1 original label file" in note
    assert "newer than this split (annotations/instances_train.json): edits since then are not in it" in note


def test_later_edits_of_label_files_beside_the_images_are_reported(root: Path) -> None:
    folder, later = root / "train", time.time() + 10
    (root / "annotations" / "instances_train.json").unlink()
    content = labelme_file("x", (64, 96), [labelme_shape("cup", [[1.0, 1.0], [20.0, 1.0], [20.0, 20.0]])])
    images = sorted(folder.iterdir())
    for image in images:
        image.with_suffix(".json").write_text(json.dumps(content | {"imagePath": image.name}))
    split_dataset(folder, (0.5, 0.5), folder, split="all")
    (folder / "run").mkdir()
    (folder / "run" / MARKER).touch()
    for file in (*images, folder / "notes.txt", folder / "run" / f"{images[0].stem}.json"):
        file.touch()
        os.utime(file, (later, later))
    assert [open_dataset(folder, name).notes for name in ("train", "val")] == [(), ()], "these are no label files"
    os.utime(images[0].with_suffix(".json"), (later, later))
    notes = [note for name in ("train", "val") for note in open_dataset(folder, name).notes]
    assert [f"({images[0].stem}.json)" in note for note in notes] == [True]


def test_the_reached_fraction_and_missing_classes_of_each_part_are_printed() -> None:
    objects = {"train": np.array([5, 2, 0]), "val": np.array([1, 0, 0])}
    division = Division(
        output=Path("out"), classes=("kite", "cat", "cup"), images={"train": 19, "val": 5}, objects=objects,
        fractions=(0.8, 0.2),
    )  # fmt: skip
    assert division.lines()[-2:] == [
        "train: 19 of 24 images, 79.2% (requested: 80.0%)",
        "val: 5 of 24 images, 20.8% (requested: 20.0%); no objects of cat",
    ]


def test_the_original_split_is_not_replaced(root: Path) -> None:
    before = (root / "annotations" / "instances_train.json").read_text()
    with pytest.raises(FileExistsError, match=r"instances_train\.json exists and was not written by rcnn"):
        split_dataset(root, (0.8, 0.2), root)
    assert (root / "annotations" / "instances_train.json").read_text() == before


def test_what_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = write_tiny_coco(tmp_path / "small", {"train": 9, "val": 2})
    for data, words, message in (
        (small, ("--split", "train", "--fractions", ".8,.2"), "has 9 images; expected at least 10"),
        (
            small,
            ("--fractions", ".8,.2"),
            "the splits train, val; choose one with split (--split), or several, e.g. train+val",
        ),
        (root, ("--fractions", ".8,x"), "--fractions .8,x: expected numbers that add up to 1"),
        (root, ("--fractions", ".8,.1"), "fractions 0.8, 0.1: expected two or more positive numbers"),
        (root, ("--fractions", ".8,.2", "--names", "a,a"), "expected 2 different names, one per fraction"),
    ):
        assert rcnn("data", "split", data, *words, "--output", tmp_path / "out") == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_parts_of_an_earlier_run_are_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    split_dataset(root, (0.5, 0.3, 0.2), out)
    with pytest.raises(FileExistsError, match=r"instances_test\.json was written by an earlier command and would"):
        split_dataset(root, (0.8, 0.2), out)
    with pytest.raises(FileExistsError, match=r"instances_test\.json was written by an earlier command"):
        fix_dataset(root, out)
    (out / "annotations" / "instances_test.json").unlink()
    split_dataset(root, (0.8, 0.2), out)
    assert splits(out) == ["train", "val"]


@pytest.mark.parametrize("name", ["", "none", "a+b", "a/b", "*", "a\nb", "ids.txt", "..", "annotations"])
def test_names_that_no_split_can_have_are_refused_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a split; expected letters, digits, - and _"):
        split_dataset(tmp_path / "gone", (0.8, 0.2), tmp_path / "out", names=("train", name))
