"""The tools for data sets work on every format: the same photos give the same counts, parts and clean copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.divide import split_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.data.inspect.info import describe_dataset
from rcnn.drawing.browse import browse_dataset
from tests.tiny_data import write_tiny_coco
from tests.unit.data.format_folders import Tables, write_labelme, write_masks, write_voc, write_yolo

Writer = Callable[[Tables, Path, Path], None]
WRITERS: dict[str, Writer] = {
    "labelme": write_labelme,
    "yolo": lambda coco, images, root: write_yolo(coco, images, root, "train", polygons=True),
    "voc": lambda coco, images, root: write_voc(coco, images, root, "train"),
    "masks": write_masks,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_can_be_checked_described_divided_and_shown(tmp_path: Path, name: str) -> None:
    coco = write_tiny_coco(tmp_path / "coco", {"train": 10})
    tables = json.loads((coco / "annotations" / "instances_train.json").read_text())
    root = tmp_path / name
    WRITERS[name](tables, coco / "train", root)
    [split] = {"train", "all"} & set(splits(root))
    dataset = open_dataset(root, split)

    report = check_dataset(root, split=split)
    assert report.errors == (), report.lines()
    assert report.objects == {split: 20}
    assert int(describe_dataset(root, split=split).splits[0].objects.sum()) == 20
    assert browse_dataset(root, tmp_path / "page", split=split).path.read_text().count("<img") == 10

    parts = split_dataset(root, (0.8, 0.2), tmp_path / "parts", split=split)
    assert sum(parts.images.values()) == 10
    part = open_dataset(tmp_path / "parts", "train")
    assert set(part.classes) == set(dataset.classes)
    assert all(isinstance(one, int) for one in (*part.image_ids, *part.objects.ids.tolist()))

    fixed = fix_dataset(root, tmp_path / "fixed", split=split)
    assert fixed.after.errors == ()
    copied = open_dataset(tmp_path / "fixed", split)
    assert [record.boxes.tolist() for record in copied] == [record.boxes.tolist() for record in dataset]
    assert [record.labels.tolist() for record in copied] == [record.labels.tolist() for record in dataset]


def test_faults_of_other_formats_have_ids(tmp_path: Path) -> None:
    coco = write_tiny_coco(tmp_path / "coco", {"train": 3})
    tables = json.loads((coco / "annotations" / "instances_train.json").read_text())
    write_labelme(tables, coco / "train", tmp_path / "labelme")
    first, second, third = sorted((tmp_path / "labelme").rglob("*.json"))
    content = json.loads(first.read_text())
    point = {"label": "cup", "points": [[3, 4]], "shape_type": "point"}
    content["shapes"] += [point, point | {"shape_type": "polygon"}, point | {"label": "", "shape_type": "rectangle"}]
    first.write_text(json.dumps(content))
    second.write_text("{")
    found = {one.kind for one in check_dataset(tmp_path / "labelme").findings}
    assert found == {"not-an-object", "bad-shape", "no-class", "unreadable-file"}
    assert third.exists()
