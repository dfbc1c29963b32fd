"""LabelMe's XML files, as CVAT exports them: outlines, boxes, masks, and what is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset, splits
from rcnn.data.formats import voc
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_images
from tests.unit.data.format_folders import (
    labelme_xml_file,
    labelme_xml_object,
    labelme_xml_polygon,
    voc_file,
    voc_object,
)

SIZE = (40, 60)
TRIANGLE = labelme_xml_polygon([10, 8, 30, 8, 30, 24])
SQUARE = "<type>bounding_box</type>" + labelme_xml_polygon([12, 5, 20.5, 5, 20.5, 9, 12, 9])


def write_split(root: Path, files: dict[str, list[str]]) -> Path:
    """A folder with an image and an XML file of the given objects for each name."""
    write_images(root, [f"{name}.jpg" for name in files])
    for name, objects in files.items():
        (root / f"{name}.xml").write_text(labelme_xml_file(f"{name}.jpg", SIZE, objects))
    return root


def test_polygons_boxes_and_masks_of_splits(tmp_path: Path) -> None:
    segm = "<segm><mask>a_mask_2.png</mask></segm>"
    objects = [labelme_xml_object("kite", TRIANGLE, 0), labelme_xml_object("cup", SQUARE, 1)]
    objects += [labelme_xml_object("cup", segm, 2), labelme_xml_object("kite", TRIANGLE, 3, deleted=1)]
    train = write_split(tmp_path / "train", {"a": objects, "b": []})
    write_split(tmp_path / "val", {"c": objects[:1]})
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[30:36, 40:45] = 255
    (train / "Masks").mkdir()
    Image.fromarray(mask).save(train / "Masks" / "a_mask_2.png")
    assert splits(tmp_path) == ["train", "val"]
    assert voc.splits(tmp_path) == set()
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.classes, dataset.image_ids, dataset.metric) == (("cup", "kite"), ("a", "b"), "coco")
    record, empty = dataset
    assert record.annotation_ids == ("a:1", "a:2", "a:3")
    assert record.labels.tolist() == [1, 0, 0]
    assert record.boxes.tolist() == [[10, 8, 30, 24], [12, 5, 20.5, 9], [40, 30, 45, 36]]
    assert record.areas.tolist() == [160, 34, 30]  # half of 20 x 16, 8.5 x 4, 5 x 6
    assert len(empty.boxes) == 0
    assert [line.partition(": ")[2] for line in dataset.warnings] == [
        "1 annotation has a box but no outline (id a:2): used for boxes, not for masks"
    ]
    assert open_dataset(train, "all")[0].boxes.tolist() == record.boxes.tolist()
    assert check_dataset(tmp_path).errors == ()


def test_faults_are_skipped_and_named(tmp_path: Path) -> None:
    shapes = (
        "",
        labelme_xml_polygon([1, 2, 3, 4]),
        labelme_xml_polygon([1, 2, 3, 4, 5, float("nan")]),
        "<segm><mask>../../a.png</mask></segm>",
    )
    objects = [labelme_xml_object("kite", shape, number) for number, shape in enumerate(shapes)]
    objects += [labelme_xml_object("", TRIANGLE, 4), labelme_xml_object("kite", TRIANGLE, 5)]
    write_split(tmp_path, {"a": objects, "b": [], "c": []})
    (tmp_path / "c.xml").write_text("<annotation><imagesize>")
    dataset = open_dataset(tmp_path)
    assert [record.annotation_ids for record in dataset] == [("a:6",), ()]
    assert [line.partition(": ")[2] for line in dataset.warnings] == [
        "1 annotation has neither a polygon nor a mask (id a:1): skipped",
        "1 annotation has a polygon of 2 points (id a:2): skipped",
        "1 annotation has points that are not pairs of finite numbers (id a:3): skipped",
        "1 annotation has a mask that is not in Masks/, or cannot be read (id a:4): skipped",
        "1 annotation has no name (id a:5): skipped",
        "1 file has XML that is damaged, too large, or with a document type (c.xml): skipped with its image",
    ]


def test_other_xml_files_are_no_images(tmp_path: Path) -> None:
    """As CVAT's own export beside the files of LabelMe."""
    write_split(tmp_path, {"a": [labelme_xml_object("kite", TRIANGLE, 0)]})
    (tmp_path / "annotations.xml").write_text("<annotations><image id='0' name='a.jpg'></image></annotations>")
    (tmp_path / "b.xml").mkdir()
    dataset = open_dataset(tmp_path)
    assert dataset.image_ids == ("a",)
    [warning] = dataset.warnings
    assert warning.endswith("no root element annotation, so it is not a LabelMe file (annotations.xml): skipped")


def test_the_folders_of_labelmes_own_tool(tmp_path: Path) -> None:
    segm = "<segm><mask>a_mask_1.png</mask></segm>"
    objects = [labelme_xml_object("kite", TRIANGLE, 0), labelme_xml_object("cup", segm, 1)]
    beside = write_split(tmp_path / "beside" / "roads", {"a": objects})
    (beside / "Masks").mkdir()
    mask = np.zeros(SIZE, np.uint8)
    mask[30:36, 40:45] = 255
    Image.fromarray(mask).save(beside / "Masks" / "a_mask_1.png")
    expected = open_dataset(tmp_path / "beside", "roads")
    own = tmp_path / "own"
    for name, pattern in (("Annotations", "*.xml"), ("Images", "*.jpg"), ("Masks", "Masks/*.png")):
        (own / name / "roads").mkdir(parents=True)
        for file in beside.glob(pattern):
            (own / name / "roads" / file.name).write_bytes(file.read_bytes())
    assert splits(own) == ["roads"]
    dataset = open_dataset(own, "roads")
    assert dataset[0].path == own / "Images" / "roads" / "a.jpg"
    assert dataset.warnings == ()
    assert dataset.to_coco()["annotations"] == expected.to_coco()["annotations"]
    for name in ("Annotations", "Images", "Masks"):
        for file in list((own / name / "roads").iterdir()):
            file.rename(own / name / file.name)
    assert splits(own) == ["all"]
    assert open_dataset(own).to_coco()["annotations"] == expected.to_coco()["annotations"]


def test_files_that_are_all_damaged_say_why(tmp_path: Path) -> None:
    write_split(tmp_path, {"a": []})
    (tmp_path / "a.xml").write_text("<annotation><imagesize>")
    with pytest.raises(
        ValueError, match=r"lists no images that can be used: repair its files(.|\n)*damaged, too large"
    ):
        open_dataset(tmp_path)


def test_the_polygons_of_roboflow_are_in_voc_files(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    polygon = "<polygon><x1>10</x1><y1>8</y1><x2>30</x2><y2>8</y2></polygon></object>"
    content = voc_file("a.jpg", SIZE, [voc_object("kite", (10, 8, 30, 24)).replace("</object>", polygon)])
    (tmp_path / "a.xml").write_text(content)
    assert open_dataset(tmp_path)[0].boxes.tolist() == [[10, 8, 30, 24]]


def test_names_that_differ_only_in_control_characters_are_one_class(tmp_path: Path) -> None:
    names = ("red\tcar", "red car")
    labelme = write_split(tmp_path / "labelme", {"a": [labelme_xml_object(name, TRIANGLE, 0) for name in names]})
    write_images(tmp_path / "voc", ["a.jpg"])
    content = voc_file("a.jpg", SIZE, [voc_object(name, (1, 1, 20, 20)) for name in names])
    (tmp_path / "voc" / "a.xml").write_text(content)
    for root in (labelme, tmp_path / "voc"):
        dataset = open_dataset(root)
        assert (dataset.classes, dataset.class_counts["red car"]) == (("red car",), 2)
        [warning] = dataset.warnings
        assert "1 annotation has a class name with control characters" in warning
