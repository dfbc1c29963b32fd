"""Fields in other forms than COCO's: for each, the value that is read and the warning with its count."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from rcnn.metrics.coco import evaluate
from tests.unit.data.coco_folders import SQUARE, annotation, coco_tables, write_annotations, write_coco

BOX = [10.0, 10.0, 30.0, 30.0]  # of SQUARE, xyxy
INF, NAN = math.inf, math.nan


def opened(root: Path, annotations: list[dict[str, Any]], **options: Any) -> Dataset:
    return open_dataset(write_coco(root, coco_tables(annotations)), "val", **options)


@pytest.mark.parametrize(
    ("value", "crowd", "warned"),
    [
        (0, False, False),
        (1, True, False),
        (True, True, False),
        (False, False, False),
        (1.0, True, False),
        ("0", False, True),
        ("1", True, True),
        ("true", True, True),
        ("1.0", True, True),
        ("0.0", False, True),
        ("no", False, True),
        (None, False, True),
        ([], False, True),
        (2, True, True),
        (NAN, False, True),
    ],
)
def test_iscrowd(tmp_path: Path, value: Any, crowd: bool, warned: bool) -> None:
    dataset = opened(tmp_path, [annotation(1), annotation(2) | {"iscrowd": value}])
    assert dataset[0].ignored.tolist() == [False, crowd]
    assert [a["iscrowd"] for a in dataset.to_coco()["annotations"]] == [0, int(crowd)]
    assert len(dataset.warnings) == warned
    if warned:
        assert "1 annotation has an iscrowd that is neither 0 nor 1 (id 2)" in dataset.warnings[0]
    assert evaluate(dataset.to_coco(), [], ["bbox", "segm"]).objects["kite"] == 2 - crowd


@pytest.mark.parametrize(
    "bbox",
    [
        [INF, INF, -INF, -INF],
        [10, NAN, 20, 20],
        [10, 10, -20, 20],
        [1e18, 10, 20, 20],
        [10**400, 10, 20, 20],
        [10, 10, 20],
        [10, 10, 20, 20, 0],
        [10, 10, 20, None],
        [10, 10, 20, True],
        [[10, 10, 20, 20]],
        "10 10 20 20",
        {"x": 10},
        7,
    ],
)
def test_a_box_that_cannot_be_used_is_taken_from_the_outline_or_skipped(tmp_path: Path, bbox: Any) -> None:
    runs = {"size": [40, 60], "counts": [410, 20, 20, 20, 1930]}
    faulty = [annotation(n) | {"bbox": bbox} for n in (1, 2, 3)]
    faulty[1]["segmentation"] = runs
    del faulty[2]["segmentation"]
    dataset = opened(tmp_path, [*faulty, annotation(4)])
    assert dataset[0].annotation_ids == (1, 2, 4)
    assert dataset[0].boxes.tolist() == [BOX, [10, 10, 12, 30], BOX]
    assert [a["id"] for a in dataset.to_coco()["annotations"]] == [1, 2, 4]
    used, skipped = dataset.warnings
    assert "2 annotations have a bbox that is not 4 finite numbers (x, y, width, height)" in used
    assert "(id 1, 2): the box around the outline is used" in used
    assert "1 annotation has a bbox" in skipped
    assert "and no outline (id 3): skipped" in skipped
    with pytest.raises(ValueError, match="2 kinds of fault, refused by strict=True \\(--strict\\)"):
        open_dataset(tmp_path, "val", strict=True)


def test_an_object_with_neither_box_nor_outline_is_skipped(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(1), annotation(2, bbox=None, segmentation=None)])
    assert dataset[0].annotation_ids == (1,)
    assert "1 annotation has no bbox and no segmentation that can be used (id 2): skipped" in dataset.warnings[0]


def test_boxes_as_text(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(1, bbox=["10", "10.0", 20, "2e1"], segmentation=None)])
    assert dataset[0].boxes.tolist() == [BOX]
    assert "1 annotation has a bbox with numbers that are text (id 1): read as numbers" in dataset.warnings[0]


def square_mask(polygons: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Run lengths of an upright square in an image of 60x40 pixels: its columns, one after the other."""
    left, top, right, bottom = (int(polygons[0][i]) for i in (0, 1, 4, 5))
    runs = [left * 40 + top, *[bottom - top, 40 - bottom + top] * (right - left)]
    return {"size": [40, 60], "counts": [*runs[:-1], 60 * 40 - sum(runs[:-1])]}


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    ("bbox", "form"),
    [
        ([10, 10, 30, 30], "x1, y1, x2, y2"),
        ([30, 20, 20, 20], "centre x, centre y, width, height"),
    ],
)
def test_boxes_of_another_form_contradict_their_outlines(
    tmp_path: Path, bbox: list[float], form: str, mask: bool
) -> None:
    outline = [[20, 10, 40, 10, 40, 30, 20, 30]] if form.startswith("centre") else SQUARE
    written = square_mask(outline) if mask else outline
    annotations = [annotation(n, bbox=bbox, segmentation=written) for n in (1, 2)]
    annotations.append(annotation(3, bbox=bbox, segmentation=None))  # has to follow the others
    dataset = opened(tmp_path, annotations)
    box = [outline[0][0], outline[0][1], outline[0][4], outline[0][5]]
    assert dataset[0].boxes.tolist() == [box] * 3
    assert "2 annotations have a bbox that contradicts its outline as [x, y, width, height] (id 1, 2): all boxes are "
    assert f"read as [{form}]" in dataset.warnings[0]
    assert dataset.to_coco()["annotations"][2]["bbox"] == [box[0], box[1], 20, 20]


def test_corners_without_outlines_are_warned_of(tmp_path: Path) -> None:
    corners = [[30, 20, 55, 38], [40, 25, 60, 40]]
    dataset = opened(tmp_path, [annotation(n, bbox=box, segmentation=None) for n, box in enumerate(corners, start=1)])
    assert "2 annotations have a bbox that reaches beyond its image" in dataset.warnings[0]
    assert "probably [x1, y1, x2, y2]" in dataset.warnings[0]


def test_some_boxes_in_fractions_are_warned_of(tmp_path: Path) -> None:
    boxes = [[10, 10, 20, 20], [0.2, 0.25, 0.5, 0.5], [0, 0, 1, 1]]  # the last one may be a pixel
    dataset = opened(tmp_path, [annotation(n, bbox=box, segmentation=None) for n, box in enumerate(boxes, start=1)])
    assert "1 annotation has a bbox from 0 to 1, of under 1 pixel" in dataset.warnings[0]
    assert [(one.kind, one.ids) for one in dataset.findings] == [("relative-coordinates", (2,))]


@pytest.mark.parametrize("relative", [False, True])
def test_centre_boxes_in_fractions_are_warned_of(tmp_path: Path, relative: bool) -> None:
    boxes = [[0.5, 0.5, 0.4, 0.4], [0.8, 0.7, 0.3, 0.5], [0.2, 0.2, 0.2, 0.3]]
    annotations = [annotation(n, bbox=box, segmentation=None) for n, box in enumerate(boxes, start=1)]
    dataset = opened(tmp_path, annotations, relative_boxes=relative)
    (form,) = [one for one in dataset.findings if one.kind == "box-form"]
    assert form.ids == (2,)
    assert "probably centre boxes [cx, cy, width, height] (YOLO's form) and must then be converted" in form.action


def test_an_image_with_faulty_objects_only_is_said_to_be_background(tmp_path: Path) -> None:
    wrong = annotation(2, image_id=2, bbox=[1, 2, 3], segmentation=None)
    found = {one.kind: one.ids for one in opened(tmp_path, [annotation(1), wrong]).findings}
    assert found == {"bad-box": (2,), "all-skipped": (2,)}
    empty = annotation(2, image_id=2, bbox=[1, 2, 3, 0], segmentation=None)
    found = {one.kind: one.ids for one in opened(tmp_path, [annotation(1), empty]).findings}
    assert found == {"empty-box": (2,), "all-skipped": (2,)}


@pytest.mark.parametrize("mask", [False, True])
def test_one_box_that_contradicts_its_outline_is_used_as_written(tmp_path: Path, mask: bool) -> None:
    wrong = annotation(4, bbox=[40, 10, 10, 10], segmentation=square_mask(SQUARE) if mask else SQUARE)
    annotations = [annotation(1), annotation(2), annotation(3), wrong]
    dataset = opened(tmp_path, annotations)
    assert dataset[0].boxes[3].tolist() == [40, 10, 50, 20]
    assert "1 annotation has a bbox that contradicts its outline (IoU below 0.5) (id 4): used as" in dataset.warnings[0]


def test_boxes_and_polygons_in_fractions_of_the_image(tmp_path: Path) -> None:
    outline = [[10 / 60, 0.25, 0.5, 0.25, 0.5, 0.75, 10 / 60, 0.75]]
    annotations = [annotation(1, bbox=[10 / 60, 0.25, 20 / 60, 0.5], area=1 / 6, segmentation=outline)]
    annotations.append(annotation(2, bbox=[0.25, 0.25, 0.5, 0.5], area=0.25, segmentation=None))
    dataset = opened(tmp_path, annotations)
    np.testing.assert_allclose(dataset[0].boxes, [BOX, [15, 10, 45, 30]], rtol=1e-6)
    np.testing.assert_allclose(dataset[0].areas, [400, 600])
    outline_read = dataset[0].segmentations[0]
    assert isinstance(outline_read, tuple)
    np.testing.assert_allclose(outline_read[0], SQUARE[0])
    assert any("2 annotations have a bbox in fractions of the image (id 1, 2)" in line for line in dataset.warnings)
    assert any("1 annotation has a polygon in fractions of the image (id 1)" in line for line in dataset.warnings)


def test_a_polygon_in_fractions_may_cover_its_whole_image(tmp_path: Path) -> None:
    polygons = [[[0, 0, 1, 0, 1, 1, 0, 1]], [[0.25, 0.25, 0.5, 0.25, 0.5, 0.75, 0.25, 0.75]]]
    for order in (polygons, polygons[::-1]):
        annotations = [annotation(n, bbox=None, area=None, segmentation=one) for n, one in enumerate(order, start=1)]
        dataset = opened(tmp_path / str(order is polygons), annotations)  # images of 60x40 pixels
        boxes = [[0, 0, 60, 40], [15, 10, 30, 30]]
        assert dataset[0].boxes.tolist() == (boxes if order is polygons else boxes[::-1])
    pixels = [annotation(1, bbox=None, segmentation=polygons[0]), annotation(2, bbox=None)]
    assert opened(tmp_path / "pixels", pixels)[0].boxes.tolist() == [[0, 0, 1, 1], BOX]


@pytest.mark.parametrize("area", [INF, NAN, -1, 1.1e10, "big", None, [400], True])
def test_invalid_areas_are_computed(tmp_path: Path, area: Any) -> None:
    dataset = opened(tmp_path, [annotation(1) | {"area": area}, annotation(2, area="7.5")])
    assert dataset[0].areas.tolist() == [400, 7.5]
    assert "1 annotation has an area that is text (id 2): read as a number" in dataset.warnings[0]
    assert len(dataset.warnings) == 1 + (area is not None)
    reason = "an area that is not a number from 0 to 1e10, the largest that COCO counts (id 1)"
    assert all(reason in line for line in dataset.warnings[1:])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (SQUARE[0], "a segmentation that is one polygon without the outer list (id 1): read as one polygon"),
        ([[10, 10], [30, 10], [30, 30], [10, 30]], "a segmentation of points [[x, y], ...] (id 1)"),
        ([[[10, 10], [30, 10], [30, 30], [10, 30]]], "a segmentation of points [[x, y], ...] (id 1)"),
        ([{"x": 10, "y": 10}, {"x": 30, "y": 10}, {"x": 30, "y": 30}, {"x": 10, "y": 30}], "a segmentation of points"),
        ([list(map(str, SQUARE[0]))], "a polygon with coordinates that are text (id 1): read as numbers"),
        ([*SQUARE, [NAN] * 6], "a polygon with a coordinate that is not finite, or far outside the image (id 1)"),
        ([*SQUARE, [1e9, 0, 5, 5, 0, 5]], "a polygon with a coordinate that is not finite, or far outside the image"),
        ([*SQUARE, [1, 2, 3, 4]], "a polygon of fewer than three points, or an odd number of coordinates (id 1)"),
    ],
)
def test_polygons_in_other_forms(tmp_path: Path, segmentation: Any, message: str) -> None:
    dataset = opened(tmp_path, [annotation(1, segmentation=segmentation, bbox=None, area=None)])
    outline = dataset[0].segmentations[0]
    assert isinstance(outline, tuple)
    assert [part.tolist() for part in outline] == SQUARE
    assert (dataset[0].boxes.tolist(), dataset[0].areas.tolist()) == ([BOX], [400])
    assert message in dataset.warnings[0]
    assert dataset.to_coco()["annotations"][0]["segmentation"] == SQUARE


@pytest.mark.parametrize(
    "segmentation", ["mask.png", 7, True, [["a"] * 6], [[None] * 6], [7, [1, 2]], [{"a": 1}], [[[]]]]
)
def test_invalid_segmentations_are_skipped(tmp_path: Path, segmentation: Any) -> None:
    dataset = opened(tmp_path, [annotation(1), annotation(2, segmentation=segmentation)])
    assert dataset[0].segmentations[1] is None
    assert dataset[0].boxes[1].tolist() == BOX
    assert "(id 2)" in dataset.warnings[0]


def test_annotation_ids_may_be_used_twice_or_missing(tmp_path: Path) -> None:
    annotations = [annotation(4), annotation(4), annotation(None), annotation(1.5), annotation(9)]
    dataset = opened(tmp_path, annotations)
    assert dataset[0].annotation_ids == (4, 4, 10, 11, 9)
    assert "2 annotations have no id (an integer or text) (id 10, 11)" in dataset.warnings[0]
    assert "1 annotation has an id that another annotation has too (id 4): all are used" in dataset.warnings[1]
    assert evaluate(dataset.to_coco(), [], ["bbox"]).objects["kite"] == 5


@pytest.mark.parametrize(
    ("stored", "referred"), [([1, 2], ["1", "2"]), (["1", "2"], [1, 2]), (["01", "02"], [1, 2]), ([1.0, 2.0], [1, 2])]
)
def test_text_ids_and_numeric_ids(tmp_path: Path, stored: list[Any], referred: list[Any]) -> None:
    tables = coco_tables([annotation(1, image_id=referred[0]), annotation(2, image_id=referred[1])])
    for image, number in zip(tables["images"], stored, strict=True):
        image["id"] = number
    tables["annotations"][1]["category_id"] = "7"
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert [record.annotation_ids for record in dataset] == [(1,), (2,)]
    assert [record.labels.tolist() for record in dataset] == [[0], [1]]
    assert "1 annotation has a category_id that is text where the file has numbers" in dataset.warnings[-1]
    assert len(evaluate(dataset.to_coco(), [], ["bbox"]).objects) == 2


def test_ids_of_the_same_value_are_ambiguous(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, image_id="01")])
    tables["images"][0]["id"], tables["images"][1]["id"] = 1, "1"
    with pytest.raises(ValueError, match=r"image_id that the file does not list, e\.g\. '01'"):
        open_dataset(write_coco(tmp_path, tables), "val")


@pytest.mark.parametrize("size", ["40", 0, -1, 1e18, 10**30, INF, NAN, True, [40], 40.5])
def test_invalid_sizes_are_read_from_the_image(tmp_path: Path, size: Any) -> None:
    tables = coco_tables([annotation(1)])
    tables["images"][1] |= {"height": size, "width": 60}
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert (dataset[1].height, dataset[1].width) == (40, 60)
    what = "text" if size == "40" else "not a number of pixels"
    [line] = dataset.warnings
    assert f"1 image has a height or width that is {what} (id 2): read" in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (7, "7"),
        (None, "category 3"),
        ("", "category 3"),
        (["a"], "category 3"),
        ("a\ud800", "a?"),
        ("a\nb\x1b[2J", "a b [2J"),
        ("a\u2028", "a"),
        ("\x00", "category 3"),
    ],
)
def test_category_names_that_are_not_text(tmp_path: Path, name: Any, expected: str) -> None:
    tables = coco_tables([annotation(1)])
    tables["categories"][1] |= {"name": name, "supercategory": 5}
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert dataset.classes == (expected, "cup")
    is_written = isinstance(name, str) and name
    what = "with control characters (line breaks, tabs, ...) or" if is_written else "that is missing, empty or not text"
    assert f"1 category has a name {what}" in dataset.warnings[0]
    assert f"(id 3): called {expected!r}" in dataset.warnings[0]
    assert dataset.to_coco()["categories"][0]["supercategory"] == "5"
    assert expected in evaluate(dataset.to_coco(), [], ["bbox"]).objects


def test_names_that_are_changed_are_reported_in_one_line(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)])
    tables["categories"] += [{"id": number} for number in range(100, 400)]
    tables["categories"][1] |= {"keypoints": ["wing\n", "x" * 300], "skeleton": [[1, 2]]}
    named, points = open_dataset(write_coco(tmp_path, tables), "val").warnings[:2]
    for what in ("1 category has keypoint names with control characters", "300 categories have a name that is missing"):
        assert sum(what in line for line in (named, points)) == 1
    assert all(len(line) < 600 for line in (named, points))


def test_a_placeholder_category_is_removed(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)])
    for category in tables["categories"]:
        category["supercategory"] = "things"
    tables["categories"].append({"id": 0, "name": "things", "supercategory": "none"})
    dataset = open_dataset(write_coco(tmp_path / "unused", tables), "val")
    assert dataset.classes == ("kite", "cup")
    assert (
        "category 0 ('things') has no objects and is the supercategory of all others: not a class" in dataset.notes[0]
    )
    assert dataset.warnings == ()
    tables["annotations"].append(annotation(2, category_id=0))
    assert open_dataset(write_coco(tmp_path / "used", tables), "val").classes == ("things", "kite", "cup")
    tables["categories"][0]["supercategory"] = "others"
    tables["annotations"].pop()
    assert len(open_dataset(write_coco(tmp_path / "different", tables), "val").classes) == 3


@pytest.mark.parametrize("crowds", [0, 1, 2])
def test_a_set_without_objects_is_refused(tmp_path: Path, crowds: int) -> None:
    write_coco(tmp_path, coco_tables([annotation(n, iscrowd=1) for n in range(crowds)]))
    with pytest.raises(ValueError, match=r"instances_val\.json has 2 images and no objects to train") as error:
        open_dataset(tmp_path, "val")
    assert (("only 1 crowd." in str(error.value)), "only 2 crowds." in str(error.value)) == (
        crowds == 1,
        crowds == 2,
    )
    assert open_dataset(tmp_path, "val", allow_empty=True).num_training_objects == 0


def test_the_reason_for_a_set_without_objects_is_given(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_tables([annotation(1, bbox=[1, 2, -3, 4], segmentation=None)]))
    with pytest.raises(ValueError, match="no objects to train or evaluate on") as error:
        open_dataset(tmp_path, "val")
    assert "1 annotation has a bbox that is not 4 finite numbers" in str(error.value)


def test_which_objects_are_trained_on(tmp_path: Path) -> None:
    crowd = {"size": [40, 60], "counts": [410, 20, 20, 20, 1930]}
    boxes = [annotation(1, segmentation=None), annotation(2, iscrowd=1, segmentation=crowd)]
    dataset = opened(tmp_path, boxes)
    assert (dataset.num_training_objects, dataset.has_outlines, dataset.objects.keypoints is not None) == (
        1,
        False,
        False,
    )
    dataset = opened(tmp_path, [*boxes, annotation(3, keypoints=[12, 12, 2])])
    assert (dataset.num_training_objects, dataset.has_outlines, dataset.objects.keypoints is not None) == (
        2,
        True,
        True,
    )


def test_a_hundred_thousand_annotations_are_checked_in_seconds(tmp_path: Path) -> None:
    tables = coco_tables([annotation(n, image_id=1 + n % 2) for n in range(100_000)])
    for place in range(0, 100_000, 1000):  # faults must not make it slow
        tables["annotations"][place] |= {"bbox": ["1", "2", "3", "4"], "iscrowd": None, "area": INF, "image_id": "1"}
    write_coco(tmp_path, coco_tables([]))
    write_annotations(tmp_path, tables)
    dataset = open_dataset(tmp_path, "val")
    assert dataset.num_training_objects == 100_000
    assert [line.split(": ")[1].split(" annotations")[0] for line in dataset.warnings[:3]] == ["100"] * 3


@pytest.mark.parametrize("depth", [50, 500, 900, 990, 5000])
def test_deeply_nested_values_do_not_make_the_file_invalid(tmp_path: Path, depth: int) -> None:
    write_coco(tmp_path, coco_tables([annotation(1)]))
    file = tmp_path / "annotations" / "instances_val.json"
    text = json.dumps(coco_tables([annotation(1), annotation(2, segmentation="NESTED", bbox="NESTED")]))
    file.write_text(text.replace('"NESTED"', "[" * depth + "]" * depth))
    try:
        dataset = open_dataset(tmp_path, "val")
    except ValueError as error:  # deeper than Python's parser goes
        message = str(error)
    else:
        message = f"{file} read"
        assert dataset[0].annotation_ids == (1,)
    assert str(file) in message
