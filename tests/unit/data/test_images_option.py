"""--images and --split in the commands for data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data import open_dataset
from rcnn.data.inspect.check import check_dataset
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco


def moved(tmp_path: Path, count: int = 10) -> tuple[Path, Path]:
    """A data set without its images, and the folder that has them."""
    root = write_tiny_coco(tmp_path / "data", {"all": count})
    photos = tmp_path / "photos"
    (root / "all").rename(photos)
    return root, photos


def test_every_command_takes_the_folder_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, photos = moved(tmp_path)
    commands = (
        ("check", root),
        ("info", root),
        ("browse", root, "--output", tmp_path / "page"),
        ("split", root, "--fractions", ".8,.2", "--output", tmp_path / "parts"),
    )
    for words in commands:
        assert rcnn("data", *words) != 0
        capsys.readouterr()
        assert rcnn("data", *words, "--images", photos) == 0, capsys.readouterr()
    assert rcnn("data", "check", root, "--images", photos, "--fix", tmp_path / "fixed") == 0
    assert len(open_dataset(tmp_path / "fixed", "all")) == 10


def test_the_folder_is_within_the_data_set_or_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, photos = moved(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    assert open_dataset(root, images="photos")[0].path.resolve() == photos / "all_1.png"
    assert open_dataset(root / "annotations" / "instances_all.json", images="photos")[0].path.is_file()
    photos.rename(root / "pictures")
    assert open_dataset(root, images="pictures")[0].path.is_file()
    message = r"images=photos \(--images\): there is no folder \S+data/photos or \S+/photos; expected the fold"
    with pytest.raises(FileNotFoundError, match=message):
        open_dataset(root, images="photos")


def remove_areas(root: Path) -> None:
    """Those of discs are the areas of their boxes, a fault of its own."""
    for file in (root / "annotations").iterdir():
        tables = json.loads(file.read_text())
        for annotation in tables["annotations"]:
            del annotation["area"]
        file.write_text(json.dumps(tables))


def test_an_image_in_another_folder_than_stated_is_a_warning(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"all": 2})
    file = root / "annotations" / "instances_all.json"
    tables = json.loads(file.read_text())
    for image in tables["images"]:
        image["file_name"] = f"../../label-studio/data/media/upload/1/{image['file_name']}"
    file.write_text(json.dumps(tables))
    remove_areas(root)
    assert [one.kind for one in check_dataset(root).findings] == ["image-folder"]
    assert rcnn("data", "check", root) == 0


def test_check_takes_the_splits_that_training_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 3, "val": 2, "test": 1})
    remove_areas(root)
    assert list(check_dataset(root, split="train+val").images) == ["train", "val"]
    ids = tmp_path / "ids.txt"
    ids.write_text("train_1\ntrain_3\n")
    report = check_dataset(root, split=f"train:{ids}+val")
    assert report.images == {f"train:{ids}": 2, "val": 2}
    assert report.lines()[-1].startswith("no faults in 4 images and 8 objects of 2 splits")
    for split, message in (("train+vla", "has no split 'vla'"), (str(tmp_path / "no.txt"), "does not exist")):
        assert rcnn("data", "check", root, "--split", split) == 2
        assert message in capsys.readouterr().err
    assert rcnn("data", "check", root, "--split", ids, "--fix", tmp_path / "out") == 2
    assert "is a list of images; expected splits, which are" in capsys.readouterr().err


def test_an_image_of_two_splits_counts_once_in_the_total(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"val": 4})
    whole = json.loads((root / "annotations" / "instances_val.json").read_text())
    part = whole | {"images": whole["images"][:2]}
    part["annotations"] = [one for one in whole["annotations"] if one["image_id"] <= 2]
    (root / "val").rename(root / "images")
    (root / "annotations" / "instances_testA.json").write_text(json.dumps(part))
    report = check_dataset(root)
    assert (report.objects, report.total) == ({"testA": 4, "val": 8}, (4, 8))


def test_unreadable_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 10})
    (root / "train" / "train_4.png").write_bytes(b"")
    for words in (("browse",), ("split", "--fractions", ".8,.2")):
        assert rcnn("data", words[0], root, *words[1:], "--output", tmp_path / words[0]) == 1
        error = capsys.readouterr().err
        assert "train_4.png is empty (0 bytes)" in error
        assert "1 image cannot be read" in error
    assert sum(len(open_dataset(tmp_path / "split", name)) for name in ("train", "val")) == 10


def test_info_prints_what_was_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 2})
    file = root / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["annotations"][0] |= {"bbox": [5, 5, 0, 9], "segmentation": []}
    file.write_text(json.dumps(tables))
    assert rcnn("data", "info", root) == 0
    printed = capsys.readouterr()
    assert "warning: " in printed.err
    assert "a box of zero size (id 1)" in printed.err
    assert "small" in printed.out


def test_a_class_that_is_only_in_the_validation_split_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 2, "val": 2})
    file = root / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    for entry in tables["annotations"]:
        entry["category_id"] = 10
    file.write_text(json.dumps(tables))
    assert rcnn("data", "check", root) == 0
    printed = capsys.readouterr().out
    assert "instances_val.json: 1 class has objects in split 'val' but none in split 'train' (id disc)" in printed
