"""Layouts of data sets: where the files of a split are found, and the errors for folders of no known layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.formats.layouts import FORMATS, names_of_formats
from rcnn.data.formats.options import ReadOptions
from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.info import describe_dataset
from tests.command import rcnn
from tests.unit.data.coco_folders import annotation, coco_tables, write_annotations, write_coco, write_images

TABLES = coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)])
NAMES = ["1.png", "2.png"]


def place(root: Path, file: str, images: str) -> Path:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(TABLES))
    write_images(root / images, NAMES)
    return root


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val2017"),
        ("annotations/instances_default.json", "images", "default"),
        ("annotations/person_keypoints_val.json", "val", "val"),
        ("annotations/test.json", "test", "test"),
        ("train/_annotations.coco.json", "train", "train"),
        ("train/annotations.json", "train/images", "train"),
        ("trainval.json", "images", "trainval"),
        ("trainval.json", ".", "trainval"),
    ],
)
def test_coco_files_are_found_where_tools_put_them(tmp_path: Path, file: str, images: str, split: str) -> None:
    root = place(tmp_path, file, images)
    (root / "results.json").write_text(json.dumps([{"image_id": 1, "score": 0.5}]))
    assert splits(root) == [split]
    dataset = open_dataset(root, split)
    assert dataset.annotation_file == root / file
    assert (dataset.root, dataset.split) == (root, split)
    assert [record.path.resolve() for record in dataset] == [(root / images / name).resolve() for name in NAMES]
    assert dataset.classes == ("kite", "cup")


def test_names_in_the_file_may_hold_folders(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)], images=1)
    tables["images"][0]["file_name"] = "photos/a/1.png"
    (tmp_path / "all.json").write_text(json.dumps(tables))
    write_images(tmp_path / "photos" / "a", ["1.png"])
    assert open_dataset(tmp_path, "all")[0].path.is_file()


def test_splits_are_sorted_and_captions_are_not_splits(tmp_path: Path) -> None:
    for split in ("val", "train"):
        write_coco(tmp_path, TABLES, split)
    (tmp_path / "annotations" / "captions_val.json").write_text(json.dumps(TABLES))
    assert splits(tmp_path) == ["train", "val"]


def test_the_shared_sets_are_recognised(shared: Path) -> None:
    data = shared / "data"
    assert splits(data / "coco449") == ["train2017", "val2017"]
    assert splits(data / "balloon") == ["train", "val"]
    assert splits(data / "fruits_nuts") == ["trainval"]
    fruits = open_dataset(data / "fruits_nuts", "trainval")
    assert (len(fruits), fruits.classes) == (18, ("date", "fig", "hazelnut"))
    assert sum(len(record.boxes) for record in fruits) == 165
    assert fruits[0].path == data / "fruits_nuts" / "images" / "0.jpg"


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write_coco(tmp_path, TABLES, "val2017")
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(tmp_path, "val")
    assert "has no split 'val' (did you mean 'val2017'?); it has val2017" in str(error.value)
    assert "annotations/instances_val.json" in str(error.value)


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    write_images(tmp_path, NAMES)
    for call in (lambda: splits(tmp_path), lambda: open_dataset(tmp_path, "train")):
        with pytest.raises(FileNotFoundError, match=r"no annotations in a known format. It contains 2 \.png"):
            call()


@pytest.mark.parametrize("inner", ["photos", "archive/photos"])
def test_a_data_set_below_the_given_folder_is_named(tmp_path: Path, inner: str) -> None:
    """As an archive is unpacked into a folder of its own."""
    place(tmp_path / inner, "annotations/instances_val.json", "val")
    message = f"has no annotations itself, but contains 1 data set: {tmp_path / inner} (COCO); give the folder of the"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        open_dataset(tmp_path)


def test_no_folder_at_all(tmp_path: Path) -> None:
    for call in (lambda: splits(tmp_path / "absent"), lambda: open_dataset(tmp_path / "absent", "train")):
        with pytest.raises(FileNotFoundError, match=r"absent does not exist; expected the folder of a data set"):
            call()


def test_the_folder_of_one_split_is_a_data_set_that_is_not_divided(tmp_path: Path) -> None:
    root = place(tmp_path, "valid/_annotations.coco.json", "valid")
    assert splits(root) == ["valid"]
    assert splits(root / "valid") == ["all"]
    whole, part = open_dataset(root, "valid"), open_dataset(root / "valid")
    assert [record.path for record in part] == [record.path for record in whole]
    with pytest.raises(FileNotFoundError, match="has no split 'train'; it has all"):
        open_dataset(root / "valid", "train")


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_minival2014.json", "val2014", "minival2014"),
        ("annotations/instances_default.json", "images/default", "default"),
        ("train/_annotations.coco.json", "train", "all"),
        ("result.json", "images", "all"),
        ("my_labels.json", ".", "my_labels"),
        ("my_labels.json", "images", "my_labels"),
    ],
)
def test_an_annotation_file_instead_of_a_folder(tmp_path: Path, file: str, images: str, split: str) -> None:
    root = place(tmp_path, file, images)
    assert splits(root / file) == [split]
    dataset = open_dataset(root / file)
    assert dataset.split == split
    assert dataset.annotation_file == root / file
    assert [record.path.resolve() for record in dataset] == [(root / images / name).resolve() for name in NAMES]
    with pytest.raises(ValueError, match=r"is one annotation file, so it has no split 'other'"):
        open_dataset(root / file, "other")
    with pytest.raises(ValueError, match=r"is an annotation file itself: leave annotations='x.json'"):
        open_dataset(root / file, annotations="x.json")


@pytest.mark.parametrize(
    "pattern", ["./labels[v2]/{split}.json", "/labels[v2]/{split}.json", "labels[v2]/../x{split}.json"]
)
def test_a_pattern_of_annotation_files_is_a_path(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "labels[v2]").mkdir()
    for file in ("labels[v2]/val.json", "xval.json"):
        (tmp_path / file).write_text(json.dumps(coco_tables([annotation(1)])))
    pattern = f"{tmp_path}{pattern}" if pattern.startswith("/") else pattern
    assert splits(tmp_path, pattern) == ["val"]


def test_images_in_a_folder_that_the_user_names(tmp_path: Path) -> None:
    root = place(tmp_path / "labels", "boxes.json", "../elsewhere/photos")
    with pytest.raises(FileNotFoundError, match="none of them in"):
        open_dataset(root / "boxes.json")
    dataset = open_dataset(root / "boxes.json", images=tmp_path / "elsewhere" / "photos")
    assert dataset[1].path == tmp_path / "elsewhere" / "photos" / "2.png"
    assert len(dataset.to_coco()["annotations"]) == 2
    with pytest.raises(FileNotFoundError, match=r"images=.*absent \(--images\): there is no folder \S+absent; "):
        open_dataset(root, images=tmp_path / "absent")


@pytest.mark.parametrize(
    ("split", "folder"),
    [
        ("minival2014", "val2014"),
        ("superminival2014", "val2014"),
        ("valminusminival2014", "val2014"),
        ("val2017_100", "val2017"),
        ("test-dev2017", "test2017"),
        ("val2017", "val2017"),
    ],
)
def test_parts_of_coco_have_their_images_in_the_folder_of_the_whole_split(
    tmp_path: Path, split: str, folder: str
) -> None:
    root = place(tmp_path, f"annotations/instances_{split}.json", folder)
    assert open_dataset(root, split).folder == root / folder


def test_superminival_keeps_annotations_of_removed_images(tmp_path: Path) -> None:
    """mask-faster-rcnn cuts the list of images to 20 and leaves the annotations as they are."""
    owners = (1, 2, 9, 9)
    tables = coco_tables([annotation(number, image_id=owner) for number, owner in enumerate(owners, start=1)])
    write_annotations(tmp_path, tables, "superminival2014")
    write_images(tmp_path / "val2014", ["1.png", "2.png"])
    dataset = open_dataset(tmp_path)
    assert [record.annotation_ids for record in dataset] == [(1,), (2,)]
    assert (dataset.warnings, len(dataset.notes)) == ((), 1)
    assert "2 annotations of images that were removed are not used" in dataset.notes[0]


def test_a_json_file_of_another_tool_is_named(tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text('[{"id": 1, "annotator": 1, "annotation_id": 3, "image": "a.jpg"}]')
    with pytest.raises(ValueError, match=r"project\.json is in Label Studio's own JSON format: export the annotations"):
        open_dataset(tmp_path / "project.json")


def test_fractions_beyond_1_need_the_option_in_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = ([0.5, 0.5, 0.5, 1.0002], [0, 0, 1, 1])
    tables = coco_tables([annotation(n, bbox=box, segmentation=None, area=None) for n, box in enumerate(boxes, 1)])
    root = write_coco(tmp_path / "data", tables)
    assert describe_dataset(root).splits[0].by_size == {"small": 2, "medium": 0, "large": 0}  # pixels
    report = check_dataset(root, relative_boxes=True)
    assert {one.kind for one in report.findings} <= {"box-beyond-edge", "empty-category"}
    assert describe_dataset(root, relative_boxes=True).splits[0].by_size == {"small": 0, "medium": 2, "large": 0}
    assert rcnn("data", "info", root, "--relative-boxes") == 0
    assert rcnn("data", "browse", root, "--relative-boxes", "--output", tmp_path / "page") == 0
    assert rcnn("data", "check", root, "--relative-boxes", "--fix", tmp_path / "fixed") == 0
    capsys.readouterr()
    assert open_dataset(tmp_path / "fixed").objects.boxes.tolist() == [[30, 20, 60, 40], [0, 0, 60, 40]]


def test_boxes_in_fractions_of_the_image(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, bbox=[0, 0, 1, 1], segmentation=None, area=None)])
    root = write_coco(tmp_path, tables)
    assert open_dataset(root)[0].boxes.tolist() == [[0, 0, 1, 1]]  # may be a pixel: only the user can know
    dataset = open_dataset(root, relative_boxes=True)
    assert dataset[0].boxes.tolist() == [[0, 0, 60, 40]]
    assert dataset.warnings == ()
    assert dataset[0].areas.tolist() == [2400]


def test_files_of_coco_that_have_no_objects(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    entries: list[dict[str, Any]] = [{"id": 1, "image_id": 1, "caption": "a kite"}]
    captions: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": entries}
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(captions))
    with pytest.raises(FileNotFoundError, match=r"captions_val2017.json is a file of captions.*: get COCO's instances"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"has captions, not objects.*expected a file such as instances_val2017.json"):
        open_dataset(file)
    file.write_text(json.dumps(captions | {"annotations": [{"image_id": 1, "segments_info": []}]}))
    with pytest.raises(ValueError, match="has panoptic segmentations, not objects"):
        open_dataset(file)


def test_images_without_ground_truth(tmp_path: Path) -> None:
    tables = coco_tables([])
    del tables["annotations"]
    root = place(tmp_path, "annotations/image_info_test-dev2017.json", "test2017")
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(tables))
    assert splits(root) == ["test-dev2017"]
    with pytest.raises(ValueError, match=r"2 images without ground truth.*rcnn predict .* --split test-dev2017"):
        open_dataset(root)
    assert len(dataset := open_dataset(root, allow_empty=True)) == 2
    assert "there is no list annotations: the images are read as test images" in " ".join(dataset.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": "x", "b.jpg": "x"}, r"contains 2 \.jpg\. There are images, but no annotations: outline the objects"),
        (
            {"masks/a.png": "x"},
            r"If these are masks, put the images .* into images/ beside masks/, and give",
        ),
        ({"x/a.jpg": "", "x/a.csv": "a,b"}, r"1 \.csv.* in the folders x\. x/a\.csv is a table: convert it"),
        ({"a.csv": "filename,region_shape_attributes"}, r"a\.csv is VIA's table: .*Export Annotations \(as json\)"),
        ({"instances_val.json": "{}"}, r"is a COCO file: give that file, or the folder that contains annotations/ and"),
        ({"data.zip": ""}, "data.zip is an archive: unpack it"),
        ({"my.json": '{"a": 1}'}, "my.json is a JSON object with a"),
        ({"my.json": "[1, 2]"}, "my.json is a JSON list of 2 entries"),
        (
            {"annotations.xml": "<?xml version='1.0'?>\n<annotations>\n<version>1.1</version>", "images/a.jpg": ""},
            r"annotations\.xml is CVAT's own XML: export the annotations again as COCO \(COCO 1\.0",
        ),
        (
            {"project.json": '[{"id": 1, "data": {"image": "a.jpg"}, "annotations": [], "predictions": []}]'},
            r"project\.json is in Label Studio's own JSON format: export the annotations again as COCO\.",
        ),
        (
            {"ds/ann/a.jpg.json": '{"description": "", "tags": [], "size": {"height": 4, "width": 5}, "objects": []}'},
            r"ds/ann/a\.jpg\.json is in Supervisely's own JSON format",
        ),
        ({"_annotations.createml.json": '[{"image": "a.jpg", "annotations": []}]'}, "is in CreateML's own JSON format"),
        ({"export.ndjson": "{}"}, r"export\.ndjson is JSON of another tool, an object per line: export the"),
        ({"data/train.parquet": "PAR1"}, r"train\.parquet is a table of a data set: write its images to files, and"),
        ({"my.json": ""}, r"my.json is empty \(0 bytes\): export it again"),
        (
            {"my.JSON": "{}"},
            "my.JSON is not searched for, because its suffix is not .json: rename it, or name it with",
        ),
        (
            {"a.jpg": "x", "a.JSON": '{"shapes": []}'},
            r"a\.JSON is not searched for, .* suffix is not \.json: rename it\. ",
        ),
        ({"a.jpg": "x", "a.XML": "<annotation/>"}, r"a\.XML is not searched for, .* suffix is not \.xml: rename it\. "),
        (
            {"classes.txt": "kite", "Images/a.jpg": "x", "Labels/a.txt": "0 .5 .5 .5 .5"},
            r"YOLO's folders must be named images and labels, in lower case: rename Images, Labels\. ",
        ),
        ({"my.json": "[1, 2"}, "my.json is not valid JSON: it may be cut short"),
        ({}, "contains no files. Give the folder that contains the images"),
    ],
)
def test_an_unknown_folder_is_answered_with_what_it_looks_like(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(FileNotFoundError, match=message) as error:
        open_dataset(tmp_path)
    assert f"The formats are {names_of_formats()}" in str(error.value)


def test_a_folder_of_several_data_sets_is_refused(tmp_path: Path) -> None:
    for name in ("labelme", "batch"):
        write_images(tmp_path / name, ["a.png"])
        shape = {"label": "kite", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
        (tmp_path / name / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    assert splits(tmp_path) == ["batch", "labelme"]
    write_coco(tmp_path / "coco", TABLES)
    with pytest.raises(ValueError, match=r"3 data sets: batch \(labelme\), coco \(COCO\), labelme \(labelme\); give"):
        open_dataset(tmp_path)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    write_coco(tmp_path, TABLES)
    (tmp_path / "val" / "2.png").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"instances_val.json: 1 of its 2 images is not in .*: 2.png; copy it there, or remove it",
    ):
        open_dataset(tmp_path, "val")
    (tmp_path / "val" / "1.png").rename(tmp_path / "val" / "photo.jpg")
    with pytest.raises(FileNotFoundError, match=r"\(1.png, 2.png\), none of them in .*; the files there are photo"):
        open_dataset(tmp_path, "val")
    (tmp_path / "val" / "photo.jpg").rename(tmp_path / "val" / "1_.png")
    with pytest.raises(FileNotFoundError, match=r"\(1.png, 2.png \(did you mean '1_.png'\?\)\), none of them in"):
        open_dataset(tmp_path, "val")
    (tmp_path / "my photos").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "my photos" / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"but they are in .*/my photos: name it with images \(--images\)$"):
        open_dataset(tmp_path, "val")
    (tmp_path / "my photos" / "2.png").unlink()
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(FileNotFoundError, match=r"lists 2 images \(1.png, 2.png\), none of them in .*val, .*images"):
        open_dataset(tmp_path, "val")


def test_objects_of_other_classes_are_ground_truth_of_none(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1), annotation(2, category_id=7), annotation(3, image_id=2)]))
    dataset = open_dataset(root, "val", ["kite"], ignore_other_classes=True)
    assert [len(dataset[i].boxes) for i in range(len(dataset))] == [1, 1]
    assert [entry["id"] for entry in dataset.to_coco()["annotations"]] == [1, 3]
    assert [entry["name"] for entry in dataset.to_coco()["categories"]] == ["kite"]


def test_all_objects_may_be_of_one_class(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1), annotation(2, category_id=7)]))
    dataset = open_dataset(root, "val", one_class=True)
    assert (dataset.classes, dataset[0].labels.tolist()) == (("object",), [0, 0])
    assert [entry["category_id"] for entry in dataset.to_coco()["annotations"]] == [1, 1]
    assert dataset.to_coco()["categories"] == [{"id": 1, "name": "object"}]


def test_each_format_recognises_its_own_folders(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", TABLES)
    regions: dict[str, Any] = {"1.png": {"filename": "1.png", "regions": []}}
    (tmp_path / "via" / "val").mkdir(parents=True)
    (tmp_path / "via" / "val" / "via_region_data.json").write_text(json.dumps(regions))
    for folder, expected in ((root, {"COCO"}), (tmp_path / "via", {"VIA"}), (tmp_path, set())):
        assert {one.NAME for one in FORMATS if one.splits(folder)} == expected
        assert {one.NAME for one in FORMATS if one.recognises(folder, "val")} == expected
        assert not any(one.recognises(folder, "train") for one in FORMATS)
    tables = next(one for one in FORMATS if one.NAME == "COCO").read(root, "val", ReadOptions())
    assert [entry["id"] for entry in tables.annotations] == [1, 2]


def test_a_labelme_file_alone_names_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(
        json.dumps({"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None})
    )
    with pytest.raises(
        ValueError, match=f"is a labelme file of one image: give the folder that contains it, {tmp_path}"
    ):
        open_dataset(file)


def test_a_model_without_a_class_of_the_data_says_so_first(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1)]))
    message = r"instances_val\.json has no objects of dog, cat, the classes of the model; it has kite\. Rename"
    with pytest.raises(ValueError, match=message):
        open_dataset(root, "val", ["dog", "cat"])
    with pytest.raises(ValueError, match=r"no objects of Kite, .*it has kite \(did you mean 'Kite'\?\)\. Rename"):
        open_dataset(root, "val", ["Kite"])
