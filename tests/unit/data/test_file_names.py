"""Image names in annotation files: found where unambiguous, refused outside the data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import Dataset, open_dataset
from tests.unit.data.coco_folders import annotation, coco_tables, write_annotations, write_images
from tests.unit.data.format_folders import voc_file, voc_object


def opened(root: Path, names: list[Any], **fields: Any) -> Dataset:
    tables = coco_tables([annotation(1)], images=len(names))
    for image, name in zip(tables["images"], names, strict=True):
        image["file_name"] = name
        image |= fields
    write_annotations(root, tables)
    return open_dataset(root, "val")


CASE = "that differs from the file's name in upper and lower case or in the encoding of accents"


@pytest.mark.parametrize(
    ("name", "there", "warning"),
    [
        ("images\\a\\1.png", "images/a/1.png", "with backslashes"),
        ("C:\\data\\val\\1.png", "val/1.png", "with leading folders that the data set does not have"),
        ("/content/set/val/1.png", "val/1.png", "with leading folders that the data set does not have"),
        ("../images/1.png", "images/1.png", ""),
        ("./1.png", "val/1.png", ""),
        ("photos/1.png", "val/1.png", "with leading folders that the data set does not have"),
        ("IMG_1.PNG", "val/img_1.png", CASE),
        ("sub/IMG_1.PNG", "val/sub/img_1.png", CASE),
        ("caf\u00e9.png", "val/cafe\u0301.png", CASE),
        ("https://example.org/x/val/my%20photo.png?token=1", "val/my photo.png", ""),
    ],
)
def test_names_that_mean_one_file(tmp_path: Path, name: str, there: str, warning: str) -> None:
    write_images(tmp_path, [there])
    dataset = opened(tmp_path, [name])
    assert dataset[0].path.resolve() == (tmp_path / there).resolve()
    assert dataset[0].path.is_file()
    assert len(dataset.warnings) == bool(warning)
    assert all(f"1 image has a file_name {warning} (id 1): the file was found" in line for line in dataset.warnings)


def test_most_images_in_one_folder_and_some_in_another(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/1.png", "images/2.png"])
    dataset = opened(tmp_path, ["1.png", "2.png"])
    assert [record.path.resolve() for record in dataset] == [
        (tmp_path / name).resolve() for name in ("val/1.png", "images/2.png")
    ]
    assert "1 image has a file_name in another folder than the others (id 2)" in dataset.warnings[0]


def test_a_url_as_file_name(tmp_path: Path) -> None:
    write_images(tmp_path, ["train2017/1.png", "val2017/2.png"])
    tables = coco_tables([annotation(1)])
    for image, folder in zip(tables["images"], ("train2017", "val2017"), strict=True):
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image.pop('file_name')}"
    (tmp_path / "annotations").mkdir()
    write_annotations(tmp_path, tables)
    (tmp_path / "annotations" / "instances_val.json").rename(tmp_path / "annotations" / "lvis_v1_val.json")
    dataset = open_dataset(tmp_path, "val")
    assert [record.path.resolve() for record in dataset] == [
        (tmp_path / name).resolve() for name in ("train2017/1.png", "val2017/2.png")
    ]
    assert dataset.warnings == ()
    assert "2 images named by a URL" in dataset.notes[0]


def test_one_file_cannot_be_guessed_for_two_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/1.png", "val/3.png"])
    with pytest.raises(FileNotFoundError, match=r"2 of its 3 images are not in .*: a/1\.png, b/1\.png"):
        opened(tmp_path, ["a/1.png", "b/1.png", "3.png"])
    with pytest.raises(FileNotFoundError, match=r"1 of its 2 images is not in .*: 1\.PNG; copy it"):
        opened(tmp_path, ["1.png", "1.PNG"])


def test_a_missing_image_with_an_absolute_path_in_vocs_xml_is_skipped(tmp_path: Path) -> None:
    write_images(tmp_path, ["JPEGImages/1.png", "JPEGImages/2.png"])
    for number in range(1, 4):
        text = voc_file(f"/elsewhere/{number}.png", (40, 60), [voc_object("cup", (1, 1, 9, 9))])
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{number}.xml").write_text(text)
    dataset = open_dataset(tmp_path)
    assert dataset.image_ids == ("1", "2")
    assert "/elsewhere/3.png" in dataset.warnings[0]


def test_two_entries_with_one_file_are_warned_of(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/1.png"])
    dataset = opened(tmp_path, ["1.png", "1.png"])
    assert "2 images have a file that another image has too (id 1, 2): all are used" in dataset.warnings[0]


def test_the_nearest_file_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/street_01.png", "val/other.png"])
    with pytest.raises(FileNotFoundError, match=r"street_1\.png \(did you mean 'street_01\.png'\?\)"):
        opened(tmp_path, ["street_1.png", "other.png"])


@pytest.mark.parametrize("name", ["../../secret.png", "../../outside/secret.png", "a/../../../secret.png", "ABSOLUTE"])
def test_names_outside_the_data_set_are_refused(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, ["secret.png", "outside/secret.png", "set/val/1.png"])
    name = str(tmp_path / "secret.png") if name == "ABSOLUTE" else name
    error = FileNotFoundError if name.startswith("/") else ValueError
    with pytest.raises(error, match=r"instances_val\.json.*secret\.png") as raised:
        opened(tmp_path / "set", ["1.png", name])
    assert name.startswith("/") or "image 2 has the file_name" in str(raised.value)
    assert name.startswith("/") or "outside the data set" in str(raised.value)


@pytest.mark.parametrize("name", ["a\0.png", ["1.png"], 7, {}])
def test_invalid_file_names(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match=r"entry 0 \(from 0\) of images \(id 1\) has the file_name"):
        opened(tmp_path, [name])


@pytest.mark.parametrize("name", ["x" * 5000, "é" * 2500, "a\0.png", "a/" * 2500 + "1.png", "a/" * 1500 + "1.png"])
def test_a_name_that_no_file_can_have_in_every_image_is_counted_in_one_short_line(tmp_path: Path, name: str) -> None:
    start = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError), match=r"instances_val\.json.*\b200 images") as raised:
        opened(tmp_path, [name] * 200)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 2000
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", [".", "..", "/", "val", "a\ud800.png", "x" * 300 + ".png"])
def test_names_of_no_image(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, ["val/1.png"])
    with pytest.raises((FileNotFoundError, ValueError), match=r"instances_val\.json"):
        opened(tmp_path, ["1.png", name])


def test_fewer_than_half_of_the_images_may_be_missing(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/1.png", "val/3.png"])
    dataset = opened(tmp_path, ["1.png", "2.png", "3.png"])
    assert dataset.file_names == ("1.png", "3.png")
    assert [(one.kind, one.ids) for one in dataset.findings] == [("missing-image", (2,))]
    assert "1 image has no file, e.g. 2.png is not in " in dataset.warnings[0]
    assert dataset.warnings[0].endswith(" (id 2): skipped")
    assert [one["id"] for one in dataset.to_coco()["images"]] == [1, 3]
    assert [one["id"] for one in dataset.to_coco()["annotations"]] == [1]
    with pytest.raises(ValueError, match=r"1 kind of fault, refused by strict=True \(--strict\)"):
        open_dataset(tmp_path, "val", strict=True)
    names = ["1.png", "../../nothing.png", 7, "3.png", "3.png"]
    dataset = opened(tmp_path, names)
    assert [(one.kind, one.ids) for one in dataset.findings if one.kind != "shared-image-file"] == [
        ("bad-file-name", (3,)),
        ("image-outside", (2,)),
    ]
    assert "1 image has a file_name that is missing or is not the name of a file, e.g. 7 (id 3)" in dataset.warnings[0]
    dataset = opened(tmp_path, ["1.png", None, "3.png"])
    assert "1 image has a file_name that is missing or is not the name of a file (id 2): skipped" in dataset.warnings[0]
    with pytest.raises(FileNotFoundError, match=r"2 of its 4 images are not in .*: 2\.png, 4\.png"):
        opened(tmp_path, ["1.png", "2.png", "3.png", "4.png"])


def test_an_image_without_a_size_is_skipped_if_its_file_cannot_be_read(tmp_path: Path) -> None:
    write_images(tmp_path, ["val/1.png", "val/2.png", "val/3.png"])
    (tmp_path / "val" / "2.png").write_bytes(b"no image")
    dataset = opened(tmp_path, ["1.png", "2.png", "3.png"], height=None)
    assert dataset.image_ids == (1, 3)
    assert dataset.sizes.tolist() == [[40, 60]] * 2
    [warning] = dataset.warnings
    assert "1 image has no size, and a file that cannot be read, e.g. " in warning
    assert "2.png is not an image that can be read" in warning
    (tmp_path / "val" / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png is not an image that can be read.* \(1 more cannot be read either\)"):
        opened(tmp_path, ["1.png", "2.png", "3.png"], height=None)
