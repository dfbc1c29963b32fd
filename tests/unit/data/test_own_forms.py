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
    with pytest.raises(
        ValueError, match=r"record 0, object 0 has a polygon of shape \(1, 40, 60\); .* one array \(H, W\)"
    ):
        rcnn.Dataset.from_records([record | {"segmentations": [[np.ones((1, 40, 60))]]}])


def test_an_id_that_is_the_number_of_a_record_without_one_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    records = [{"file": tmp_path / "1.png", "image_id": 1}, {"file": tmp_path / "2.png"}]
    with pytest.raises(
        ValueError, match=r"record 1 has the image_id 1 of record 0; .* give one to all images or to none"
    ):
        rcnn.Dataset.from_records(records, classes=["cup"])


def test_flat_keypoints_without_visibility_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    record = {"file": tmp_path / "1.png", "boxes": [[1, 1, 30, 30]] * 2, "labels": ["cup"] * 2}
    names = ["left", "right"]
    with pytest.raises(ValueError, match="record 0, object 1 has 4 numbers as keypoints; expected 6: x, y, vis"):
        rcnn.Dataset.from_records([record | {"keypoints": [[2, 3, 2, 8, 9, 1], [2, 3, 8, 9]]}], keypoints=names)
    dataset = rcnn.Dataset.from_records([record | {"keypoints": [[2, 3, 2, 8, 9, 1]] * 2}], keypoints=names)
    found = dataset[0].keypoints
    assert found is not None
    assert found.tolist() == [[[2, 3, 2], [8, 9, 1]]] * 2


def test_faults_of_a_torch_data_set_are_named_by_the_image() -> None:
    sound: dict[str, Any] = {"boxes": [[1, 1, 9, 9]], "labels": [1]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"boxes": torch.tensor([[9.0, 1, 1, 9]])}, ", object 0 has the box"),
        ({"labels": [1, 1]}, " has 1 boxes for 2 labels"),
        ({"masks": np.ones((1, 8, 8), dtype=bool)}, r", object 0 has a mask of 8, 8 \(height, width\)"),
    ]
    for faulty, message in cases:
        items = [(np.zeros((16, 16, 3), np.uint8), target) for target in (sound, sound | faulty)]
        with pytest.raises(ValueError, match=f"image 1{message}"):
            rcnn.Dataset.from_torch(items, ["cup"])


def test_warnings_and_errors_count_records_and_objects_from_0(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    boxes = [[1, 2, 9, 9], [5, 5, 5, 20], [70, 1, 80, 9]]  # sound, without width, outside the image of 40 x 60
    first = {"file": tmp_path / "1.png", "boxes": boxes[:1], "labels": ["a"]}
    second = {"file": tmp_path / "2.png", "boxes": boxes, "labels": ["a"] * 3}
    dataset = rcnn.Dataset.from_records([first, second])
    assert dataset.image_ids == (0, 1)
    empty, outside = dataset.warnings
    assert "(record 1, object 1)" in empty
    assert "(record 1, object 2)" in outside
    with pytest.raises(ValueError, match="record 1, object 1 has a box of 3 numbers"):
        rcnn.Dataset.from_records([first, second | {"boxes": [boxes[0], [1, 2, 3], boxes[2]]}])
    target = {"boxes": torch.tensor([boxes[0], boxes[2]]), "labels": torch.ones(2, dtype=torch.int64)}
    [warning] = rcnn.Dataset.from_torch([(torch.zeros(3, 40, 60), target)], ["a"]).warnings
    assert "(image 0, object 1)" in warning


def test_an_id_that_two_objects_have_names_neither(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    boxes = [[5, 5, 5, 20], [1, 2, 9, 9], [6, 6, 6, 20]]
    record = {"file": tmp_path / "1.png", "boxes": boxes, "labels": ["a"] * 3, "annotation_ids": [7, 7, 8]}
    lines = rcnn.Dataset.from_records([record]).warnings
    assert any("(id 7)" in line and "another annotation has too" in line for line in lines)
    assert any("(id 7, record 0, object 2)" in line for line in lines)


def test_objects_that_are_no_objects(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    first, second = ({"file": tmp_path / f"{n}.png", "boxes": [[1, 2, 3, 4]], "labels": ["a"]} for n in (1, 2))
    masks = np.zeros((1, 40, 60), dtype=np.uint8)
    wrong: list[tuple[dict[Any, Any], str]] = [
        ({"labels": [True]}, ", object 0 has the label True; expected one of the classes a, b, or 0 to 1"),
        ({"labels": [0.5]}, ", object 0 has the label 0.5; expected one of the classes"),
        ({"segmentations": [masks]}, r", object 0 has a polygon of shape \(40, 60\); expected x, y.* masks\[:, 0\]"),
        ({"segmentations": [[[[1, 2], [3]]]]}, r", object 0 has segmentations \[\[1, 2\], \[3\]\]; expected polygons"),
        ({"segmentations": [{"size": 5, "counts": [1]}]}, r", object 0 has RLE of size 5; expected \[height, width\]"),
        (
            {"segmentations": [{"size": [40, 60], "counts": [0.5]}]},
            r", object 0 has RLE with the counts \[0.5\]; expected COCO's",
        ),
        (
            {"keypoints": [np.zeros((3, 4))]},
            r", object 0 has keypoints of shape \(3, 4\); expected \(J, 3\): x, y, visibility",
        ),
        ({"crowd": [float("nan")]}, ", object 0 has crowd or difficult nan; expected 0 or 1"),
        ({"crowd": [0.5]}, ", object 0 has crowd or difficult 0.5; expected 0 or 1"),
        ({"image_id": torch.tensor([1, 2])}, r" has the image_id tensor\(\[1, 2\]\); expected an integer or text"),
        ({"image_id": 0}, " has the image_id 0 of record 0; expected another id for each image"),
        ({"file": str(tmp_path)}, r" the file /.* is a folder; expected the path of an image"),
        ({1: 2}, " unknown key 1; expected file, image_id"),
    ]
    for fields, message in wrong:
        with pytest.raises(ValueError, match=f"record 1:?{message}"):
            rcnn.Dataset.from_records([first, second | fields], ["a", "b"])
    with pytest.raises(ValueError, match=r"record 1, object 0 has the label \['a'\], which is not a name"):
        rcnn.Dataset.from_records([first, second | {"labels": [["a"]]}])
    with pytest.raises(ValueError, match="records is of type int; expected a list of dicts"):
        rcnn.Dataset.from_records(5)  # type: ignore[arg-type]
