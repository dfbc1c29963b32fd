"""VIA exports: shapes and classes against values computed by hand, the balloon set against its own file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from rcnn.data.checks.outlines import polygon_area
from rcnn.data.formats.via import ellipse_points
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_images

POLYGON = {"name": "polygon", "all_points_x": [10, 30, 30], "all_points_y": [5, 5, 25]}
RECT = {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 20}
CIRCLE = {"name": "circle", "cx": 30, "cy": 20, "r": 10}
ELLIPSE = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 12, "ry": 6, "theta": math.pi / 2}


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def opened(root: Path, *images: list[dict[str, Any]] | dict[str, Any], classes: list[str] | None = None) -> Dataset:
    """The split of a folder called kites with images 0.png, 1.png, ... (60x40) that have the given regions."""
    entries: dict[str, dict[str, Any]] = {
        f"{n}.png99": {"filename": f"{n}.png", "size": 99, "regions": r, "file_attributes": {}}
        for n, r in enumerate(images)
    }
    write_images(root / "kites" / "val", [entry["filename"] for entry in entries.values()])
    (root / "kites" / "val" / "via_region_data.json").write_text(json.dumps(entries))
    return open_dataset(root / "kites", "val", classes)


def test_shapes_become_boxes_and_polygons(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [region(shape) for shape in (POLYGON, RECT, CIRCLE, ELLIPSE)])
    record = dataset[0]
    assert (record.height, record.width) == (40, 60)
    np.testing.assert_allclose(
        record.boxes, np.array([[10, 5, 30, 25], [2, 3, 12, 23], [20, 10, 40, 30], [24, 8, 36, 32]]), atol=1e-5
    )
    polygon, rectangle, circle, _ = record.segmentations
    assert isinstance(polygon, tuple)
    assert polygon[0].tolist() == [10, 5, 30, 5, 30, 25]
    assert rectangle is None
    assert isinstance(circle, tuple)
    x, y = circle[0].reshape(-1, 2).T
    np.testing.assert_allclose(np.hypot(x - 30, y - 20), 10)
    np.testing.assert_allclose(record.areas, [200, 200, math.pi * 100, math.pi * 72], rtol=0.002)
    assert dataset.classes == ("kites",)
    with pytest.raises(
        ValueError, match=r"has no objects of balloon.*\n.*the class is 'kites', the name of the folder\."
    ):
        open_dataset(tmp_path / "kites", "val", ["balloon"])


def test_an_ellipse_turns_clockwise_as_seen() -> None:
    points = ellipse_points(0, 0, 10, 1, turn=math.pi / 4)
    tip = points[0]
    np.testing.assert_allclose(tip, [10 / math.sqrt(2)] * 2)  # to the right and down
    assert polygon_area(points.reshape(-1).tolist()) == pytest.approx(math.pi * 10, rel=0.002)


def test_classes_come_from_the_attribute(tmp_path: Path) -> None:
    regions = [
        region(POLYGON, type="kite", colour="red"),
        region(RECT, type="cup", colour=""),
        region(CIRCLE, type="kite"),
    ]
    dataset = opened(tmp_path, regions, [])
    assert dataset.classes == ("cup", "kite")
    assert dataset[0].labels.tolist() == [1, 0, 1]
    assert len(dataset[1].boxes) == 0


def test_a_checkbox_is_a_class(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [region(POLYGON, thing={"kite": True, "cup": False}), region(RECT, thing={"cup": True})])
    assert dataset.classes == ("cup", "kite")
    assert dataset[0].labels.tolist() == [1, 0]


def test_given_classes_give_the_order(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [region(POLYGON, name="kite")], classes=["cup", "kite", "boat"])
    assert dataset[0].labels.tolist() == [1]
    truth = dataset.to_coco()
    by_id = {category["id"]: category["name"] for category in truth["categories"]}
    assert len(by_id) == 3
    assert [by_id[a["category_id"]] for a in truth["annotations"]] == ["kite"]
    assert [by_id[number] for number in dataset.category_ids] == ["cup", "kite", "boat"]


def test_warnings_name_the_region_and_its_image(tmp_path: Path) -> None:
    """Not an id, because the file has none."""
    beyond = RECT | {"x": 50, "width": 30}
    empty = {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    dataset = opened(tmp_path, [region(POLYGON)], [region(RECT), region(beyond), region(empty)])
    found = " ".join(dataset.warnings)
    assert "1 annotation has a box partly outside the image (region 1 of 1.png): clipped" in found
    assert "(region 2 of 1.png)" in found
    assert "(id " not in found


def test_regions_may_be_a_dict_and_the_file_a_project(tmp_path: Path) -> None:
    write_images(tmp_path / "val", ["a.png"])
    entry = {"filename": "a.png", "size": 5, "regions": {"0": region(RECT), "4": region(CIRCLE)}}
    project: dict[str, Any] = {"_via_settings": {}, "_via_img_metadata": {"a.png5": entry}, "_via_attributes": {}}
    (tmp_path / "val" / "via_region_data.json").write_text(json.dumps(project))
    assert len(open_dataset(tmp_path, "val")[0].boxes) == 2


def test_points_and_lines_are_skipped(tmp_path: Path) -> None:
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    dataset = opened(tmp_path, [region(POLYGON), region({"name": "point", "cx": 1, "cy": 2}), region(line)])
    assert len(dataset[0].boxes) == 1
    [warning] = dataset.warnings
    assert (
        "2 regions have a point or a line, which is not an object (region 1 of 0.png, 2 of 0.png): skipped" in warning
    )
    dataset = opened(tmp_path, [region(POLYGON)], [region(line)], [])
    assert [(one.kind, one.ids) for one in dataset.findings][1:] == [("all-skipped", (2,))]


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (region(RECT), "1 region has no 'name', which is the class of other regions (region 1 of 0.png): skipped"),
        (region(RECT, name="  "), "1 region has no 'name', which is the class"),
        (region(RECT, name={"cup": True, "kite": True}), "2 boxes of the class attribute 'name' ticked (cup, kite)"),
        (region(RECT, name=["cup", "kite"]), "2 boxes of the class attribute 'name' ticked (cup, kite)"),
        (region(RECT, name={"cup": False}), "1 region has no 'name', which is the class"),
        (region({"name": "star"}, name="kite"), "1 region has the shape 'star', expected polygon, rect, circle"),
        (region({"name": "circle", "cx": 1, "cy": 2}, name="kite"), "1 region has a circle without r"),
        (region(CIRCLE | {"r": math.nan}, name="kite"), "a circle with a value that is not a finite number"),
        (region(CIRCLE | {"r": "wide"}, name="kite"), "a circle with a value that is not a finite number"),
        (
            region(POLYGON | {"all_points_y": [1]}, name="kite"),
            "a polygon with different numbers of x and y",
        ),
        (region(POLYGON | {"all_points_x": 7}, name="kite"), "different numbers of x and y coordinates"),
        (region(RECT | {"width": -5}, name="kite"), "1 annotation has a bbox that is not 4 finite numbers"),
        (region(RECT | {"x": math.inf}, name="kite"), "1 annotation has a bbox that is not 4 finite numbers"),
        ({"shape": "rect"}, "1 region has no shape_attributes"),
        (None, "1 region has no shape_attributes"),
    ],
)
def test_faulty_regions_are_skipped(tmp_path: Path, faulty: Any, message: str) -> None:
    dataset = opened(tmp_path, [region(POLYGON, name="kite"), faulty, region(CIRCLE, name="kite")])
    np.testing.assert_allclose(dataset[0].boxes, [[10, 5, 30, 25], [20, 10, 40, 30]], atol=1e-5)
    assert dataset.classes == ("kite",)
    assert message in dataset.warnings[0]
    assert len(dataset.to_coco()["annotations"]) == 2


def test_regions_of_a_wrong_type_are_one_fault(tmp_path: Path) -> None:
    regions: Any = "none"
    [warning] = opened(tmp_path, [region(RECT)], regions).warnings
    assert "1 image has regions that are neither a list nor an object (id 2): used as background" in warning


def test_attributes_without_a_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"via_region_data\.json: regions have the attributes a, b, and it"):
        opened(tmp_path, [region(RECT, a="1", b="2")])


@pytest.mark.parametrize(("split", "images", "objects"), [("train", 61, 255), ("val", 13, 50)])
def test_balloons(shared: Path, split: str, images: int, objects: int) -> None:
    root = shared / "data" / "balloon"
    dataset = open_dataset(root, split)
    written = {e["filename"]: e for e in json.loads((root / split / "via_region_data.json").read_text()).values()}
    assert (len(dataset), dataset.classes) == (images, ("balloon",))
    for record in dataset:
        shapes = [r["shape_attributes"] for r in written[record.path.name]["regions"].values()]
        for shape, outline, box in zip(shapes, record.segmentations, record.boxes, strict=True):
            xs, ys = shape["all_points_x"], shape["all_points_y"]
            assert isinstance(outline, tuple)
            assert outline[0].tolist() == [v for point in zip(xs, ys, strict=True) for v in point]
            expected = [min(xs), min(ys), min(max(xs), record.width), min(max(ys), record.height)]
            assert box.tolist() == expected
    assert sum(len(record.boxes) for record in dataset) == objects
    truth = dataset.to_coco()
    assert len({a["id"] for a in truth["annotations"]}) == objects
    assert all(a["bbox"][2] > 0 and a["area"] > 0 for a in truth["annotations"])


def test_warnings_about_two_splits_as_one_name_their_regions(tmp_path: Path) -> None:
    outside = RECT | {"x": 100}
    for split, shapes in (("train", [RECT]), ("val", [RECT, outside])):
        write_images(tmp_path / "kites" / split, ["0.png"])
        entry = {"filename": "0.png", "size": 9, "regions": [region(shape) for shape in shapes]}
        (tmp_path / "kites" / split / "via_region_data.json").write_text(json.dumps({"0.png9": entry}))
    alone, both = (open_dataset(tmp_path / "kites", split) for split in ("val", "train+val"))
    for dataset in (alone, both):
        (warning,) = dataset.warnings
        assert "a box outside the image (region 1 of 0.png)" in warning, warning


@pytest.mark.parametrize("content", ["", "{}", '{"0.png99": {"filename": "0.png", "regio'])
def test_a_damaged_file_is_a_split_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    opened(tmp_path, [region(RECT)])
    (tmp_path / "kites" / "train").mkdir()
    (tmp_path / "kites" / "train" / "via_region_data.json").write_text(content)
    report = check_dataset(tmp_path / "kites", no_images=True)
    assert [(one.kind, "train/via_region_data.json" in one.what) for one in report.errors] == [
        ("unreadable-annotations", True)
    ]
