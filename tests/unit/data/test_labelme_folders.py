"""labelme's files and images in folders: beside each other (imgs, jsons), and in subfolders of a split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data import open_dataset, splits
from rcnn.outputs import OutputFolder
from tests.unit.data.coco_folders import write_images
from tests.unit.data.format_folders import labelme_file, labelme_shape

SIZE = (40, 60)
TRIANGLE = [[10.0, 5.0], [30.0, 5.0], [30.0, 25.0]]


def place(images: Path, files: Path, name: str, label: str = "kite") -> None:
    """An image NAME.png and its file; imagePath is the name of the image alone."""
    write_images(images, [f"{name}.png"])
    files.mkdir(parents=True, exist_ok=True)
    content = labelme_file(f"{name}.png", SIZE, [labelme_shape(label, TRIANGLE)])
    (files / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("images", "files"), [("imgs", "jsons"), ("img", "ann"), ("images", "json"), ("imgs", "imgs")])
def test_images_and_files_in_folders_beside_each_other(images: str, files: str, tmp_path: Path) -> None:
    place(tmp_path / images, tmp_path / files, "a")
    assert splits(tmp_path) == ["all"]
    dataset = open_dataset(tmp_path)
    assert (dataset[0].path, dataset.warnings) == (tmp_path / images / "a.png", ())
    for split in ("train", "val"):
        place(tmp_path / "set" / images / split, tmp_path / "set" / files / split, "a", label=split)
    assert splits(tmp_path / "set") == ["train", "val"]
    dataset = open_dataset(tmp_path / "set", "val")
    assert dataset[0].path == tmp_path / "set" / images / "val" / "a.png"
    assert (dataset.classes, dataset.warnings) == (("val",), ())


def test_files_in_subfolders_of_a_split(tmp_path: Path) -> None:
    for day in ("monday", "tuesday/late"):
        place(tmp_path / "train" / day, tmp_path / "train" / day, "a", label=day[:3])
    place(tmp_path / "val" / "monday", tmp_path / "val" / "monday", "b")
    write_images(tmp_path / "train" / "monday", ["unlabelled.png"])
    assert splits(tmp_path) == ["train", "val"]
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("monday/a", "tuesday/late/a")
    assert [record.path.relative_to(tmp_path / "train").as_posix() for record in dataset] == [
        "monday/a.png", "tuesday/late/a.png"
    ]  # fmt: skip
    assert [record.annotation_ids for record in dataset] == [("monday/a:1",), ("tuesday/late/a:1",)]
    assert dataset.classes == ("mon", "tue")
    assert dataset.warnings == ()
    [note] = dataset.notes
    assert "1 image without a JSON file is not used" in note
    assert len(open_dataset(tmp_path, "train+val")) == 3


def test_subfolders_of_files_have_the_images_of_the_same_subfolders(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        place(tmp_path / "imgs" / "train" / day, tmp_path / "jsons" / "train" / day, "a", label=day)
    dataset = open_dataset(tmp_path, "train")
    assert [record.path.relative_to(tmp_path).as_posix() for record in dataset] == [
        "imgs/train/monday/a.png", "imgs/train/tuesday/a.png"
    ]  # fmt: skip
    assert dataset.warnings == ()


def test_files_below_others_are_named(tmp_path: Path) -> None:
    place(tmp_path / "train", tmp_path / "train", "a")
    place(tmp_path / "train" / "late", tmp_path / "train" / "late", "b")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("a",)
    [note] = dataset.notes
    assert f"{tmp_path / 'train'}: there are labelme files in late, inside this folder: not used" in note


def test_data_sets_and_predictions_are_no_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        place(tmp_path / "plants" / split, tmp_path / "plants" / split, "a")
    with pytest.raises(FileNotFoundError, match=r"contains 1 data set: .*plants \(labelme\); give the folder"):
        open_dataset(tmp_path)
    for split in ("train", "val"):
        place(tmp_path / "deep" / "v1" / split, tmp_path / "deep" / "v1" / split, "a")
    assert splits(tmp_path / "deep" / "v1") == ["train", "val"]
    with pytest.raises(FileNotFoundError, match="give the folder of the data set"):
        open_dataset(tmp_path / "deep")
    with pytest.raises(FileNotFoundError, match="give the folder of the data set"):
        open_dataset(tmp_path)
    place(tmp_path / "found" / "labelme", tmp_path / "found" / "labelme", "a")
    with OutputFolder(tmp_path / "found") as output:
        output.claim("results.json").touch()
    with pytest.raises(FileNotFoundError, match=r"contains \d data sets"):
        open_dataset(tmp_path)
