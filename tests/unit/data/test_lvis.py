"""LVIS v1: images by their URL, fields of federated annotation, and the metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data import open_dataset, splits
from tests.unit.data.coco_folders import annotation, coco_tables, write_images


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    """LVIS' layout with two images, and a class of each in them."""
    tables = coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)])
    for image, folder in zip(tables["images"], ("train2017", "val2017"), strict=True):
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.cocodataset.org/{folder}/{name}", "flickr_url": "http://x/y.jpg"}
        image |= {"neg_category_ids": [7, 999], "not_exhaustive_category_ids": []}
        write_images(tmp_path / folder, [name])
    for entry, frequency in zip(tables["categories"], "rf", strict=True):
        entry |= {"frequency": frequency, "synset": "cup.n.01", "image_count": 1}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(tables))
    return tmp_path


def test_lvis(lvis: Path) -> None:
    assert splits(lvis) == ["val"]
    dataset = open_dataset(lvis, "val")
    assert [record.path.parent.name for record in dataset] == ["train2017", "val2017"]
    assert [entry["frequency"] for entry in dataset.categories] == ["f", "r"]
    truth = dataset.to_coco()
    assert [image["neg_category_ids"] for image in truth["images"]] == [[7], [7]]
    assert [image["not_exhaustive_category_ids"] for image in truth["images"]] == [[], []]
    assert (dataset.warnings, dataset.metric) == ((), "lvis")


def test_two_files_with_other_category_ids_and_one_class(lvis: Path) -> None:
    file = lvis / "annotations" / "lvis_v1_val.json"
    tables = json.loads(file.read_text())
    for entry in tables["categories"]:
        entry["name"] = {"cup": "kite", "kite": "cup"}[entry["name"]]  # the ids are those of the other class
    (lvis / "annotations" / "lvis_v1_train.json").write_text(json.dumps(tables))
    both = open_dataset(lvis, "val+train")
    verified = [image["neg_category_ids"] for image in both.to_coco()["images"]]
    assert (both.metric, verified) == ("lvis", [[7], [7], [3], [3]])
    single = open_dataset(lvis, "val", one_class=True)
    assert (single.metric, single.category_ids) == ("coco", (1,))
    assert not any("neg_category_ids" in image for image in single.to_coco()["images"])


def test_an_lvis_file_has_its_metric_whatever_its_name(lvis: Path) -> None:
    file = lvis / "annotations" / "lvis_v1_val.json"
    assert open_dataset(file).metric == "lvis"
    assert open_dataset(lvis, "val", annotations="annotations/lvis_v1_{split}.json").metric == "lvis"
    mine = file.rename(lvis / "annotations" / "instances_mine.json")
    assert open_dataset(lvis, "mine").metric == "lvis"
    tables = json.loads(mine.read_text())
    del tables["images"][0]["neg_category_ids"]
    mine.write_text(json.dumps(tables))
    assert open_dataset(lvis, "mine").metric == "coco"


def test_a_list_may_name_a_skipped_image_by_the_name_in_its_url(lvis: Path) -> None:
    file = lvis / "annotations" / "lvis_v1_val.json"
    tables = json.loads(file.read_text())
    name = "9.png"
    tables["images"].append(
        tables["images"][0] | {"id": 9, "coco_url": f"http://images.cocodataset.org/val2017/{name}"}
    )
    file.write_text(json.dumps(tables))
    (lvis / "ids.txt").write_text(f"1.png\n{name}\n")
    assert open_dataset(lvis, "ids.txt").image_ids == (1,)
    (lvis / "ids.txt").write_text("1.png\nNone\n")
    with pytest.raises(ValueError, match=r"ids\.txt: None: not an id or file name"):
        open_dataset(lvis, "ids.txt")
