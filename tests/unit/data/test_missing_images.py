"""The message about image files that do not exist says where such files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data import open_dataset
from tests.unit.data.coco_folders import annotation, coco_tables, write_annotations, write_images

TABLES = coco_tables([annotation(1)], images=3)  # 1.png, 2.png and 3.png


def message(root: Path, files: list[str]) -> str:
    """What is said when only these `files` exist."""
    write_annotations(root, TABLES)
    write_images(root, files)
    with pytest.raises(FileNotFoundError, match=r"instances_val\.json") as error:
        open_dataset(root, "val")
    return str(error.value).replace(f"{root}/", "")


def test_the_folders_of_the_files_are_named(tmp_path: Path) -> None:
    found = message(tmp_path, ["images/part0/1.png", "images/part0/2.png", "images/part1/3.png", "images/.old/1.png"])
    assert "lists 3 images (1.png, 2.png, 3.png), none of them in val, images/val, val/images, images, " in found
    assert found.endswith(
        "but files of these names are in images/part0, images/part1: write the folder into file_name, e.g. "
        "'part0/1.png', or move the images into images"
    )
    tables = coco_tables([annotation(1)], images=3)
    for image, part in zip(tables["images"], (0, 0, 1), strict=True):
        image["file_name"] = f"part{part}/{image['file_name']}"
    write_annotations(tmp_path, tables)
    assert len(open_dataset(tmp_path, "val")) == 3  # the advice


def test_a_name_in_two_folders_is_ambiguous(tmp_path: Path) -> None:
    found = message(tmp_path, ["images/part0/1.png", "images/part1/1.png", "images/part1/2.png"])
    assert "are in images/part0, images/part1, and 1.png is in more than one of them (ambiguous): write" in found


def test_a_folder_with_all_files_is_named(tmp_path: Path) -> None:
    every = ["1.png", "2.png", "3.png"]
    found = message(tmp_path / "a", [f"raw/photos/{name}" for name in every])
    assert found.endswith("but they are in raw/photos: name it with images (--images)")
    assert len(open_dataset(tmp_path / "a", "val", images="raw/photos")) == 3  # the advice
    found = message(tmp_path / "b", [f"{folder}/{name}" for folder in ("copy", "raw") for name in every])
    assert found.endswith(
        "but files of these names are in copy, raw: name the right folder with images (--images), e.g. copy"
    )
    tables = coco_tables([annotation(1)], images=3)
    for image, part in zip(tables["images"], (0, 0, 1), strict=True):
        image["file_name"] = f"part{part}/1.png" if part else f"part{part}/{image['file_name']}"
    (tmp_path / "c").mkdir()
    write_annotations(tmp_path / "c", tables)
    write_images(tmp_path / "elsewhere" / "part0", ["1.png", "2.png"])
    write_images(tmp_path / "elsewhere" / "part1", ["1.png"])
    (tmp_path / "c" / "raw").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"but they are in \S+/c/raw: name it with images \(--images\)$"):
        open_dataset(tmp_path / "c", "val")
    assert len(open_dataset(tmp_path / "c", "val", images="raw")) == 3


def test_files_of_other_images_are_not_named(tmp_path: Path) -> None:
    found = message(tmp_path / "a", ["val/1.png", "images/part/3.png"])
    assert "2 of its 3 images are not in val, " in found
    assert ": 2.png, 3.png, but a file of this name is in images/part: write the folder into file_name" in found
    assert message(tmp_path / "b", ["val/1.png"]).endswith(
        "2.png, 3.png; copy them there, or remove them from the file"
    )


def test_only_files_that_may_be_meant_are_suggested(tmp_path: Path) -> None:
    found = message(tmp_path / "a", ["val/1.jpg", "val/2.jpg", "val/3.jpg"])
    assert "(1.png, 2.png, 3.png (the files have the suffix .jpg)), none of them in val" in found
    found = message(tmp_path / "c", ["val/1.png", "val/12.png", "val/32.png"])
    assert "did you mean" not in found  # 12.png is another image than 2.png


@pytest.mark.parametrize("name", ["part/1.png/", "part/.", "."])
def test_file_names_that_are_folders(tmp_path: Path, name: str) -> None:
    tables = coco_tables([annotation(1)], images=2)
    tables["images"][0]["file_name"] = name
    write_annotations(tmp_path, tables)
    write_images(tmp_path / "raw", ["1.png", "2.png"])
    with pytest.raises(
        FileNotFoundError, match=r"but a file of this name is in \S*raw: write the folder into file_name"
    ):
        open_dataset(tmp_path, "val")


def test_leading_folders_that_the_data_set_lacks(tmp_path: Path) -> None:
    """As in Objects365: images/v1/patch0/1.png in the file, train/patch0/1.png on the disk."""
    tables = coco_tables([annotation(1)], images=2)
    for number, image in enumerate(tables["images"]):
        image["file_name"] = f"images/v1/patch{number}/{image['file_name']}"
    write_annotations(tmp_path, tables)
    for number in (0, 1):
        write_images(tmp_path / "raw" / f"patch{number}", [f"{number + 1}.png"])
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(tmp_path, "val")
    assert str(error.value).endswith(f"but they are in {tmp_path / 'raw'}: name it with images (--images)")
    assert len(open_dataset(tmp_path, "val", images="raw")) == 2
