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


@pytest.mark.parametrize(("images", "files"), [("imgs", "jsons"), ("img", "ann"), ("images", "json"), ("imgs", "img")])
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


def test_folders_that_are_no_pair_are_splits(tmp_path: Path) -> None:
    place(tmp_path / "two" / "img", tmp_path / "two" / "img", "a")
    place(tmp_path / "two" / "jsons", tmp_path / "two" / "jsons", "b")
    assert splits(tmp_path / "two") == ["img", "jsons"]
    assert open_dataset(tmp_path / "two", "img+jsons").image_ids == ("a", "b")
    place(tmp_path / "same" / "imgs", tmp_path / "same" / "imgs", "a")
    assert splits(tmp_path / "same") == ["imgs"]
    for name, files in (("a", "jsons"), ("b", "img")):  # two folders of files for one of images
        place(tmp_path / "files" / "images", tmp_path / "files" / files, name)
    assert splits(tmp_path / "files") == ["img", "jsons"]
    for name, files in (("a", "annotations"), ("b", "jsons")):
        place(tmp_path / "old" / "images", tmp_path / "old" / files, name)
    with pytest.raises(ValueError, match=r"contains 2 data sets: annotations \(labelme\), jsons \(labelme\); give"):
        splits(tmp_path / "old")


@pytest.mark.parametrize("written", ["a.png", "../a.png"])
@pytest.mark.parametrize(("files", "split"), [("jsons", "all"), ("train/jsons", "train"), ("val/json", "val")])
def test_files_in_a_folder_inside_that_of_the_images(files: str, split: str, written: str, tmp_path: Path) -> None:
    place(tmp_path / files / "..", tmp_path / files, "a")
    file = tmp_path / files / "a.json"
    file.write_text(file.read_text().replace('"a.png"', json.dumps(written)))
    assert splits(tmp_path) == [split]
    dataset = open_dataset(tmp_path, split)
    assert (dataset.image_ids, dataset.warnings, dataset.notes) == (("a",), (), ())
    assert dataset[0].path == tmp_path / Path(files).parent / "a.png"
    write_images(tmp_path / Path(files).parent, ["other.png"])
    [note] = open_dataset(tmp_path, split).notes
    assert ": 1 image without a JSON file is not used" in note


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_image_above_the_files_comes_before_that_of_the_data_set(split: str, tmp_path: Path) -> None:
    place(tmp_path / split, tmp_path / split / "jsons", "a")
    write_images(tmp_path, ["a.png"])
    assert open_dataset(tmp_path, split)[0].path == tmp_path / split / "a.png"


def test_an_image_of_another_name_is_no_counterpart(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere", tmp_path / "jsons", "a")
    file = tmp_path / "jsons" / "a.json"
    file.write_text(file.read_text().replace('"a.png"', '"../elsewhere/a.png"'))
    write_images(tmp_path, ["preview.png"])
    assert splits(tmp_path) == ["jsons"]


def test_files_of_a_pair_without_a_counterpart_are_noted(tmp_path: Path) -> None:
    place(tmp_path / "imgs", tmp_path / "jsons", "a")
    write_images(tmp_path / "imgs", ["b.png"])
    [note] = open_dataset(tmp_path).notes
    assert "1 image without a JSON file is not used" in note
    for name, files in (("a", "jsons"), ("a", "json"), ("b", "jsons")):  # json/ is the first
        place(tmp_path / "set" / "imgs" / "val", tmp_path / "set" / files / "val", name)
    dataset = open_dataset(tmp_path / "set", "val")
    other = tmp_path / "set" / "jsons" / "val"
    assert dataset.image_ids == ("a",)
    assert f"1 labelme file in {other} (b.json) without a file of that name in" in dataset.notes[-1]


def test_a_split_with_files_in_subfolders_beside_one_without(tmp_path: Path) -> None:
    place(tmp_path / "train", tmp_path / "train", "a")
    place(tmp_path / "val" / "monday", tmp_path / "val" / "monday", "b")
    place(tmp_path / "spare" / "monday", tmp_path / "spare" / "monday", "c")
    assert splits(tmp_path) == ["train", "val"]
    assert open_dataset(tmp_path, "val").image_ids == ("monday/b",)
    [note] = open_dataset(tmp_path, "train").notes
    assert f"there are labelme files in subfolders of {tmp_path / 'spare'}: not used, unless split" in note
    assert open_dataset(tmp_path, "spare").image_ids == ("monday/c",)


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
