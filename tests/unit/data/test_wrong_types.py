"""A field of a wrong type is no silent "none": it is counted, while null, [] and a missing field mean none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import Dataset, open_dataset
from tests.unit.data.coco_folders import annotation, coco_tables, write_annotations, write_coco

NOTHING: tuple[Any, ...] = (None, [])
WRONG: tuple[Any, ...] = (0, "", {}, False, 3.5, "text", {"x": 1})
WRONG_LISTS: tuple[dict[str, int], ...] = ({}, {"a": 1})
LONG = "x" * 5000


def opened(folder: Path, tables: dict[str, Any]) -> Dataset:
    return open_dataset(write_coco(folder, tables), "val")


def changed(field: str, value: Any) -> dict[str, Any]:
    """Two objects in COCO's form; `field` of the second is `value`."""
    return coco_tables([annotation(1), annotation(2, **{field: value})])


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("keypoints", "keypoints that are not a list [x, y, visibility, ...] (id 2): no keypoints of these objects"),
        ("segmentation", "a segmentation that is neither polygons [[x, y, x, y, ...], ...] nor RLE (id 2)"),
        ("bbox", "a bbox that is not 4 finite numbers (x, y, width, height), with a width and height of 0 or more"),
    ],
)
def test_a_field_of_an_object(tmp_path: Path, field: str, expected: str) -> None:
    for number, value in enumerate(WRONG):
        lines = opened(tmp_path / f"wrong{number}", changed(field, value)).warnings
        assert any(f"1 annotation has {expected}" in line for line in lines), (value, lines)
    for number, value in enumerate(NOTHING):
        lines = opened(tmp_path / f"nothing{number}", changed(field, value)).warnings
        assert not [line for line in lines if "that is not" in line or "neither" in line], (value, lines)


def test_keypoints_of_a_wrong_type_do_not_cost_those_of_the_others(tmp_path: Path) -> None:
    right = annotation(1, keypoints=[3, 4, 2, 5, 6, 1])
    tables = coco_tables([right, annotation(2, keypoints=""), annotation(3, keypoints={"nose": 1})])
    dataset = opened(tmp_path, tables)
    points = dataset[0].keypoints
    assert points is not None
    assert points[0].tolist() == [[3, 4, 2], [5, 6, 1]]
    assert any("2 annotations have keypoints that are not a list" in line for line in dataset.warnings)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("keypoints", "1 category has keypoints that are not a list of names"),
        ("supercategory", "1 category has a supercategory that is not text"),
    ],
)
def test_a_field_of_a_category(tmp_path: Path, field: str, expected: str) -> None:
    for number, value in enumerate(WRONG_LISTS):
        tables = coco_tables([annotation(1)])
        tables["categories"][0][field] = value
        assert any(expected in line for line in opened(tmp_path / str(number), tables).warnings), value
    tables = coco_tables([annotation(1)])
    tables["categories"][0][field] = None
    assert not opened(tmp_path / "none", tables).warnings


def test_an_unknown_metric_is_reported(tmp_path: Path) -> None:
    for number, value in enumerate(("voc2009", LONG, 5, {"voc": 2007}, "")):
        tables = coco_tables([annotation(1)]) | {"info": {"metric": value}}
        folder = write_coco(tmp_path / str(number), tables)
        dataset = open_dataset(folder, "val")
        assert dataset.metric == "coco"
        [line] = dataset.warnings
        assert "1 field has the value " in line
        assert (
            "expected one of coco, voc2007, voc2012, or no such field (info.metric): the metric of COCO is used" in line
        )
        with pytest.raises(ValueError, match=r"refused by strict=True .*\n.*info\.metric"):
            open_dataset(folder, "val", strict=True)
    for value, metric in (("voc2007", "voc2007"), ("coco", "coco"), (None, "coco")):
        tables = coco_tables([annotation(1)]) | {"info": {"metric": value}}
        dataset = opened(tmp_path / str(value), tables)
        assert (dataset.metric, dataset.warnings) == (metric, ())


def _fields(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all texts and numbers in the tables."""
    if isinstance(value, dict):
        return [one for key, item in value.items() for one in _fields(item, (*place, key))]
    if isinstance(value, list):
        return [one for key, item in enumerate(value) for one in _fields(item, (*place, key))]
    return [place]


def _with(tables: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(tables))
    part = copy
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return copy


TABLES = coco_tables([annotation(1, keypoints=[3, 4, 2]), annotation(2)]) | {"info": {"metric": "coco"}}
HUGE: tuple[Any, ...] = (LONG, 10**4000, [LONG], [1] * 5000, {LONG: LONG})


@pytest.mark.parametrize("place", _fields(TABLES), ids=lambda place: ".".join(map(str, place)))
def test_a_huge_value_is_shortened_in_every_message(tmp_path: Path, place: tuple[Any, ...]) -> None:
    write_coco(tmp_path, TABLES)
    for value in HUGE:
        write_annotations(tmp_path, _with(TABLES, place, value))
        try:
            lines = open_dataset(tmp_path, "val").warnings
        except (ValueError, FileNotFoundError) as error:
            lines = tuple(str(error).splitlines())
        assert all(len(line) < 1500 for line in lines), [len(line) for line in lines]


def test_a_name_that_no_file_can_have_costs_only_its_image(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1), annotation(2)], images=3)
    folder = write_coco(tmp_path, tables)
    file = folder / "annotations" / "instances_val.json"
    for name in (LONG, f"{LONG}/1.png", "é" * 200, "http://[x/1.jpg"):
        tables["images"][2]["file_name"] = name
        file.write_text(json.dumps(tables))
        dataset = open_dataset(folder, "val")
        assert len(dataset) == 2
        assert any("1 image has" in line and "skipped" in line for line in dataset.warnings), dataset.warnings
