"""Photos with two label files: in two folders of one split, or in two splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset, splits
from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.fix import fix_dataset
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import labelme_file, labelme_shape, voc_file, voc_object

SIZE = (40, 60)
TRIANGLE = [[10.0, 5.0], [30.0, 5.0], [30.0, 25.0]]
KINDS = ["two-label-files", "shared-images", "different-classes"]


@pytest.mark.parametrize("second", ["person/a.png", "a/1.png", "person/a/1.png"])
def test_a_mask_beside_those_in_folders_is_not_counted_again(tmp_path: Path, second: str) -> None:
    write_images(tmp_path / "images", ["a.png"])
    ids = np.zeros(SIZE, np.uint8)
    ids[5:25, 10:30] = 1
    for name in ("a.png", second):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(tmp_path / "masks" / name)
    [record] = (dataset := open_dataset(tmp_path))
    assert record.boxes.tolist() == [[10, 5, 30, 25]]
    assert dataset.classes == ("person" if "person" in second else "object",)
    [error] = check_dataset(tmp_path, no_images=True).errors
    assert (error.kind, error.ids) == ("two-label-files", ("images/a.png",))


def test_objects_of_one_class_in_a_mask_and_in_a_file_each_are_used_once(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    ids = np.zeros(SIZE, np.uint8)
    ids[5:25, 10:30] = 1
    for name in ("leaf/a.png", "leaf/a/1.png", "stem/a.png"):  # a mask of another class is no second one
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(tmp_path / "masks" / name)
    dataset = open_dataset(tmp_path)
    assert sorted(dataset[0].annotation_ids) == ["masks/leaf/a/1.png", "masks/stem/a.png:1"]
    assert [(one.kind, one.ids) for one in dataset.findings] == [("two-label-files", ("images/a.png",))]


def test_labelme_files_in_two_folders(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "annotations").mkdir()
    for name, label in (("a", "kite"), ("b", "kite"), ("annotations/a", "cup")):
        content = labelme_file(f"{name[-1]}.png", SIZE, [labelme_shape(label, TRIANGLE)])
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("kite",)
    [warning] = dataset.warnings
    assert f"1 image has a second label file in {tmp_path / 'annotations'} (id a): not used, because " in warning


@pytest.mark.parametrize("second", ["JPEGImages", ".", "Annotations/done"])
def test_xml_files_in_two_folders(tmp_path: Path, second: str) -> None:
    write_images(tmp_path / "JPEGImages", ["a.jpg", "b.jpg"])
    (tmp_path / "Annotations").mkdir()
    (tmp_path / second).mkdir(exist_ok=True)
    for place, label, names in (("Annotations", "kite", "ab"), (second, "cup", "a")):
        for name in names:
            content = voc_file(f"{name}.jpg", SIZE, [voc_object(label, (10, 5, 30, 25))])
            (tmp_path / place / f"{name}.xml").write_text(content)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("kite",)
    assert [(one.kind, one.ids) for one in dataset.findings] == [("two-label-files", ("a",))]


@pytest.mark.parametrize(
    ("image", "used", "second"),
    [
        ("images/train/a.png", "labels/train", "labels"),
        ("images/a.png", "labels", "labels/train"),
        ("images/a.png", "labels", "images"),
        ("images/train/a.png", "labels/train", "labels/train/old"),
        ("train/images/a.png", "train/labels", "train/images"),
    ],
)
def test_yolo_label_files_in_two_folders(tmp_path: Path, image: str, used: str, second: str) -> None:
    write_images((tmp_path / image).parent, ["a.png", "b.png"])
    (tmp_path / "classes.txt").write_text("kite\ncup\n")
    for place, label, names in ((used, 0, "ab"), (second, 1, "a")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (tmp_path / place / f"{name}.txt").write_text(f"{label} .5 .5 .2 .2\n")
    dataset = open_dataset(tmp_path)
    assert [record.labels.tolist() for record in dataset] == [[0], [0]]
    [finding] = dataset.findings
    assert (finding.kind, finding.ids) == ("two-label-files", (image,))
    assert f"a second label file in {tmp_path / second}" in finding.line()


def test_a_yolo_label_file_of_another_split_is_no_second_one(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("kite\n")
    for split, name in (("train", "a"), ("val", "b")):
        write_images(tmp_path / "images" / split, [f"{name}.png"])
        (tmp_path / "labels" / split).mkdir(parents=True)
        for label in "ab":  # as in exports that number the images of each split
            (tmp_path / "labels" / split / f"{label}.txt").write_text("0 .5 .5 .2 .2\n")
    for split, other in (("train", "b"), ("val", "a")):
        [finding] = open_dataset(tmp_path, split).findings
        assert (finding.kind, finding.ids) == ("missing-image", (f"labels/{split}/{other}.txt",))


@pytest.mark.parametrize(
    ("split", "config"),
    [
        ("val", ""),
        ("test-dev2017", ""),
        ("holdout", "train: images/train\nval: images/holdout\nnames: [kite, cup]\n"),
        ("old", ""),  # no split: second label files
        ("val_old", ""),
        ("train_more/val", ""),  # a part of no split
    ],
)
def test_label_files_of_a_split_without_images_are_counted_in_one_line(split: str, config: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train", ["a.png", "b.png"])
    (tmp_path / "classes.txt").write_text("kite\ncup\n")
    if config:
        (tmp_path / "data.yaml").write_text(config)
    for folder, names in (("train", "ab"), (split, "abc")):
        (tmp_path / "labels" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "labels" / folder / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    dataset = open_dataset(tmp_path, "train")
    findings = [one for one in dataset.findings if one.kind != "missing-split"]
    if split in ("old", "val_old", "train_more/val"):
        [finding] = findings
        assert (finding.kind, finding.ids) == ("two-label-files", ("images/train/a.png", "images/train/b.png"))
        return
    assert findings == []
    [note] = dataset.notes
    assert f"labels/{split} has label files with the names of 2 images of train, but belongs to another split" in note
    assert f"({tmp_path / 'images' / split} has none): not used" in note
    write_images(tmp_path / "images" / split / "part", ["z.png"])  # part of the split is there
    [finding] = [one for one in open_dataset(tmp_path, "train").findings if one.kind != "missing-split"]
    assert finding.kind == "two-label-files"


def test_two_coco_files_about_the_same_photos(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1), annotation(2, image_id=2)])
    write_images(tmp_path, ["1.png", "2.png"])
    for name in ("labels", "old"):
        (tmp_path / f"{name}.json").write_text(json.dumps(tables))
    assert splits(tmp_path) == ["labels", "old"]
    [same] = check_dataset(tmp_path, no_images=True, only=KINDS).findings
    assert (same.kind, same.ids) == ("shared-images", (1, 2))
    tables["annotations"][1]["category_id"] = 7
    (tmp_path / "old.json").write_text(json.dumps(tables))
    [other] = check_dataset(tmp_path, no_images=True, only=KINDS).findings
    assert (other.kind, other.ids, other.file.name) == ("two-label-files", (2,), "old.json")
    tables["categories"][0]["name"] = "tie"
    (tmp_path / "old.json").write_text(json.dumps(tables))
    findings = check_dataset(tmp_path, no_images=True, only=KINDS).errors
    assert [(one.kind, one.ids) for one in findings] == [("different-classes", ("tie",)), ("two-label-files", (2,))]


def test_a_part_of_a_split_with_the_same_objects_is_no_fault(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1), annotation(2, image_id=2)])
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "val2014.json").write_text(json.dumps(tables))
    tables = coco_tables([annotation(1)], images=1)
    (tmp_path / "minival2014.json").write_text(json.dumps(tables))
    assert check_dataset(tmp_path, no_images=True, only=KINDS).findings == ()


def test_lvis_annotates_cocos_photos_with_other_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    tables = coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)])
    (tmp_path / "train2017.json").write_text(json.dumps(tables))
    tables["categories"][0]["name"] = "teacup"
    (tmp_path / "train.json").write_text(json.dumps(tables))
    kinds = {one.kind for one in check_dataset(tmp_path, no_images=True).errors}
    assert kinds == {"different-classes", "two-label-files"}
    for image in tables["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}  # LVIS' fields
    (tmp_path / "train.json").write_text(json.dumps(tables))
    assert check_dataset(tmp_path, no_images=True).errors == ()
    (tmp_path / "train.json").rename(tmp_path / "val.json")  # as LVIS val has photos of COCO's train2017
    report = check_dataset(tmp_path)
    [shared] = [one for one in report.findings if one.file.name == "val.json"]
    assert (report.errors, shared.kind, shared.ids) == ((), "shared-images", (1, 2))
    assert "LVIS annotates COCO's photos" in shared.line()
    fix_dataset(tmp_path, tmp_path / "fixed")
    assert len(open_dataset(tmp_path / "fixed", "train2017")) == 2, "no training image is removed as a copy"


def test_a_copied_photo_with_other_labels_in_another_folder(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for folder, label in (("first", "kite"), ("second", "cup")):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo).save(tmp_path / folder / "a.png")
        content = labelme_file("a.png", SIZE, [labelme_shape(label, TRIANGLE)])
        (tmp_path / folder / "a.json").write_text(json.dumps(content))
    kinds = [one.kind for one in check_dataset(tmp_path).errors]
    assert kinds == ["different-classes", "different-classes", "two-label-files"]
