"""The record of the images that a model was trained on."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import Dataset, open_dataset, trained_images
from rcnn.data.similarity import content_hash
from rcnn.data.trained_images import TrainedImages, copied_images
from tests.tiny_data import write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("images"), {"train": 40, "val": 10}, size=(24, 32))


@pytest.fixture
def train(images: Path) -> Dataset:
    return open_dataset(images, "train")


def recorded(dataset: Dataset) -> TrainedImages:
    """The record of a data set, after it was written and read."""
    record = TrainedImages.of(dataset)
    assert record is not None
    read = TrainedImages.from_dict(json.loads(json.dumps(record.to_dict())))
    assert read is not None
    assert read == record
    return read


def test_the_images_of_another_part_are_not_counted(images: Path, train: Dataset) -> None:
    record = recorded(train.subset(range(30)))
    assert [record.count_in(train.subset(part)) for part in (range(30), range(20, 40), [3], range(30, 40))] == [
        30, 10, 1, 0,
    ]  # fmt: skip
    assert record.count_in(open_dataset(images, "val")) == 0
    [warning] = record.warning(train, "runs/a", "Choose others")
    assert warning == (
        "runs/a was trained on 30 of the 40 images of train (its training split was train), so these metrics do not "
        "measure how well it does on new images. Choose others"
    )
    [warning] = record.warning(train.subset(range(30)), "runs/a", "")
    assert warning.startswith("runs/a was trained on all 30 images of train (")


def test_a_large_data_set_has_a_small_record(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_images, "RECORDED", 10)
    record = recorded(train)
    assert len(record.hashes) == 10
    assert not record.is_complete
    assert record.count_in(train) == 40
    half = recorded(train.subset(range(20)))
    assert 10 <= half.count_in(train) <= 30  # estimated from 10 hashes
    assert half.count_in(train.subset(range(20, 40))) == 0
    assert "trained on about 40 of the 40" in record.warning(train, "runs/a", "")[0]


def test_images_embedded_in_labelme_files_are_those_of_another_export(train: Dataset, tmp_path: Path) -> None:
    for record in train.subset(range(3)):
        labelme = {
            "shapes": [{"label": "a", "shape_type": "rectangle", "points": [[2, 2], [9, 9]]}],
            "imagePath": "gone.png",
            "imageData": b64encode(record.path.read_bytes()).decode(),
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        (tmp_path / f"{record.path.stem}.json").write_text(json.dumps(labelme))
    embedded = open_dataset(tmp_path)
    assert [Path(name).suffix for name in embedded.file_names] == [".json"] * 3
    assert recorded(embedded).count_in(train) == 3
    assert recorded(train).count_in(embedded) == 3


def test_images_with_names_that_are_not_utf_8_have_hashes(train: Dataset) -> None:
    """Linux allows any bytes in a file name; Python reads those that are not UTF-8 as lone surrogates."""
    renamed = replace(train, file_names=tuple(f"f\udcfcr{number}.png" for number in range(len(train))))
    assert recorded(renamed.subset([0, 2])).count_in(renamed) == 2


def test_a_damaged_record_is_refused() -> None:
    assert TrainedImages.from_dict(None) is None
    with pytest.raises(ValueError, match="trained_images: expected an object with split, count and hashes"):
        TrainedImages.from_dict({"split": "train", "count": 2, "hashes": ["a"]})


def test_files_with_equal_middles_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans with a white line in the middle: each is compared with all others, but not read for each of them."""
    for split, first in (("train", 0), ("val", 8)):
        tables = coco_tables([annotation(1)], images=10)
        for image in tables["images"]:
            image["file_name"] = f"{split}_{image['id']}.bmp"
        write_coco(tmp_path, tables, split)
        for image in tables["images"]:
            pixels = np.full((120, 200), 255, np.uint8)  # more than the bytes that are compared first
            pixels[-1, 0] = first + image["id"]  # the first of the file; val 1 and 2 equal train 9 and 10
            Image.fromarray(pixels).save(tmp_path / split / image["file_name"])
    read: list[Path] = []

    def counting(file: Path) -> str:
        read.append(file)
        return content_hash(file)

    monkeypatch.setattr(trained_images, "content_hash", counting)
    assert copied_images(open_dataset(tmp_path, "val"), open_dataset(tmp_path, "train")) == 2
    assert len(read) == len(set(read)) == 20
