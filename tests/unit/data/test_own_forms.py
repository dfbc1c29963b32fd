"""Forms in which other libraries give the values of records, and values that records must not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rcnn
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco, write_images

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]


def test_names_may_be_an_array(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    names: Any = np.array(["cup", "kite"])
    record = {"file": tmp_path / "1.png", "boxes": [[10, 10, 30, 30]], "labels": ["kite"]}
    opened = rcnn.open_dataset(write_coco(tmp_path, coco_tables([annotation(1)], images=1)), classes=names)
    for dataset in (
        rcnn.Dataset.from_records([record], classes=names),
        rcnn.Dataset.from_torch([(np.zeros((40, 60, 3), np.uint8), {"boxes": [[1, 1, 9, 9]], "labels": [2]})], names),
        opened,
    ):
        assert dataset.classes == ("cup", "kite")
        assert {type(name) for name in dataset.classes} == {str}
        assert dataset[0].labels.tolist() == [1]
    assert opened.to_coco()["annotations"][0]["category_id"] == 3


def test_a_contour_of_opencv_is_a_polygon(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    contour = np.array(SQUARE, dtype=np.int32)[:, None]  # (P, 1, 2), as cv2.findContours returns them
    record = {"file": tmp_path / "1.png", "labels": ["cup"]}
    given, expected = (
        rcnn.Dataset.from_records([record | {"segmentations": [[outline]]}])[0]
        for outline in (contour, [10, 10, 30, 10, 30, 30, 10, 30])
    )
    assert given.boxes.tolist() == [[10, 10, 30, 30]]
    assert str(given.segmentations) == str(expected.segmentations)
    with pytest.raises(ValueError, match=r"record 0 has a polygon of shape \(1, 40, 60\); .* one array \(H, W\)"):
        rcnn.Dataset.from_records([record | {"segmentations": [[np.ones((1, 40, 60))]]}])


def test_an_id_that_is_the_number_of_a_record_without_one_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    records = [{"file": tmp_path / "1.png", "image_id": 2}, {"file": tmp_path / "2.png"}]
    with pytest.raises(
        ValueError, match=r"record 1 has the image_id 2 of record 0; .* give one to all images or to none"
    ):
        rcnn.Dataset.from_records(records, classes=["cup"])


def test_flat_keypoints_without_visibility_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    record = {"file": tmp_path / "1.png", "boxes": [[1, 1, 30, 30]], "labels": ["cup"]}
    names = ["left", "right"]
    with pytest.raises(ValueError, match="record 0 has an object with 4 numbers as keypoints; expected 6: x, y, vis"):
        rcnn.Dataset.from_records([record | {"keypoints": [[2, 3, 8, 9]]}], keypoints=names)
    dataset = rcnn.Dataset.from_records([record | {"keypoints": [[2, 3, 2, 8, 9, 1]]}], keypoints=names)
    found = dataset[0].keypoints
    assert found is not None
    assert found.tolist() == [[[2, 3, 2], [8, 9, 1]]]


def test_faults_of_a_torch_data_set_are_named_by_the_image() -> None:
    sound: dict[str, Any] = {"boxes": [[1, 1, 9, 9]], "labels": [1]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"boxes": torch.tensor([[9.0, 1, 1, 9]])}, "has the box"),
        ({"labels": [1, 1]}, "has 1 boxes for 2 labels"),
        ({"masks": np.ones((1, 8, 8), dtype=bool)}, r"has a mask of 8, 8 \(height, width\)"),
    ]
    for faulty, message in cases:
        items = [(np.zeros((16, 16, 3), np.uint8), target) for target in (sound, sound | faulty)]
        with pytest.raises(ValueError, match=f"image 1 {message}"):
            rcnn.Dataset.from_torch(items, ["cup"])
