"""Records hold the values of the annotation file, compared with pycocotools on real images."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO

from rcnn.data import Dataset, open_dataset
from tests.unit.data.coco_folders import SQUARE, annotation, coco_tables, write_coco

TWO_PARTS = [*SQUARE, [40.5, 5, 50, 5, 45, 15.25]]


@pytest.fixture
def small(tmp_path: Path) -> Dataset:
    crowd = {"size": [40, 60], "counts": [400, 10, 30, 10, 1950]}
    annotations = [
        annotation(11, image_id=2, category_id=7, segmentation=TWO_PARTS, bbox=[10, 5, 40, 25], area=450.5),
        annotation(12, image_id=1),
        annotation(13, image_id=2, iscrowd=1, segmentation=crowd, bbox=[10, 0, 2, 10], area=20),
        annotation(14, image_id=2, segmentation=[]),
    ]
    return open_dataset(write_coco(tmp_path, coco_tables(annotations, images=3)), "val")


def test_a_record_holds_the_values_of_the_file(small: Dataset) -> None:
    assert len(small) == 3
    record = small[1]
    assert (record.image_id, record.height, record.width, record.path.name) == (2, 40, 60, "2.png")
    assert record.path.is_file()
    np.testing.assert_array_equal(record.boxes, np.array([[10, 5, 50, 30], [10, 0, 12, 10], [10, 10, 30, 30]]))
    assert record.boxes.dtype == np.float32
    assert record.labels.tolist() == [1, 0, 0]
    assert record.labels.dtype == np.int64
    assert record.ignored.tolist() == [False, True, False]
    assert record.areas.tolist() == [450.5, 20.0, 400.0]
    assert record.annotation_ids == (11, 13, 14)
    assert record.keypoints is None
    first, crowd, bare = record.segmentations
    assert isinstance(first, tuple)
    assert [part.tolist() for part in first] == TWO_PARTS
    assert first[0].dtype == np.float64
    assert isinstance(crowd, dict)
    expected = np.zeros((60, 40), dtype=bool)  # down the columns
    expected[10:12, :10] = True
    np.testing.assert_array_equal(masks.decode(crowd).astype(bool), expected.T)
    assert bare is None


def test_an_image_without_objects_is_kept(small: Dataset) -> None:
    record = small[2]
    assert record.boxes.shape == (0, 4)
    assert record.labels.shape == (0,)
    assert record.segmentations == ()


def test_negative_indices_and_the_end(small: Dataset) -> None:
    assert small[-1].image_id == 3
    assert [record.image_id for record in small] == [1, 2, 3]
    with pytest.raises(IndexError, match=r"there is no image 3: .* has 3 images"):
        small[3]


def test_slices_masks_and_fractions_are_no_indices(small: Dataset) -> None:
    assert small[np.int64(1)].image_id == 2
    for wrong in (slice(0, 2), 1.0, "1"):
        with pytest.raises(TypeError, match=r"the index is .*; expected an integer\. .* dataset\.subset\(range"):
            small[wrong]  # type: ignore[index]
    with pytest.raises(ValueError, match=r"indices are of type bool; expected integers: np\.flatnonzero\(mask\)"):
        small.subset(np.array([True, False, True]))
    with pytest.raises(ValueError, match="indices are of type float64; expected integers"):
        small.subset([0.5])  # type: ignore[list-item]
    assert len(small.subset([])) == 0


def test_a_record_checks_itself(small: Dataset) -> None:
    with pytest.raises(ValueError, match="image 2: labels has length 1; expected 3"):
        replace(small[1], labels=np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match=r"image 2: boxes have shape \(3, 5\)"):
        replace(small[1], boxes=np.zeros((3, 5), dtype=np.float32))


def test_a_data_set_can_be_pickled(small: Dataset) -> None:
    again = pickle.loads(pickle.dumps(small))  # noqa: S301 - its own bytes
    np.testing.assert_array_equal(again[1].boxes, small[1].boxes)
    assert again.to_coco() == small.to_coco()


def test_the_ground_truth_is_read_from_the_file_for_evaluation(small: Dataset) -> None:
    truth = small.to_coco()
    written = json.loads(small.annotation_file.read_text())
    for ours, theirs in zip(truth["annotations"], written["annotations"], strict=True):
        outlines = ours.pop("segmentation", []), theirs.pop("segmentation")
        assert ours == theirs
        if isinstance(outlines[1], dict):
            expected = masks.frPyObjects(outlines[1], 40, 60)
            assert outlines[0] == {"size": [40, 60], "counts": expected["counts"].decode()}
        else:
            assert outlines[0] == outlines[1]
    assert truth["images"] == written["images"]
    assert truth["categories"] == [{"id": 3, "name": "kite"}, {"id": 7, "name": "cup"}]


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_real_images_equal_pycocotools(shared: Path, split: str) -> None:
    root = shared / "data" / "coco449"
    dataset = open_dataset(root, split)
    coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
    assert set(dataset.image_ids) == set(coco.getImgIds())
    assert dataset.category_ids == tuple(sorted(coco.getCatIds()))
    assert dataset.classes == tuple(category["name"] for category in coco.loadCats(sorted(coco.getCatIds())))
    crowds = 0
    for record in dataset:
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[record.image_id]))
        assert list(record.annotation_ids) == [a["id"] for a in annotations]
        assert [dataset.category_ids[label] for label in record.labels] == [a["category_id"] for a in annotations]
        assert record.ignored.tolist() == [bool(a["iscrowd"]) for a in annotations]
        assert record.areas.tolist() == [a["area"] for a in annotations]
        x, y, width, height = np.array([a["bbox"] for a in annotations]).reshape(-1, 4).T
        expected = np.stack([x, y, x + width, y + height], axis=1)
        np.testing.assert_allclose(record.boxes, expected, atol=0.02)  # COCO's go over the edge by rounding
        for outline, written in zip(record.segmentations, annotations, strict=True):
            if isinstance(outline, dict):
                crowds += 1
                np.testing.assert_array_equal(masks.decode(outline), coco.annToMask(written))
            else:
                assert outline is not None
                assert [part.tolist() for part in outline] == written["segmentation"]
    assert crowds > 10


def test_keypoints_are_rows_of_points(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "coco449"
    (tmp_path / "annotations").mkdir()
    name = "annotations/person_keypoints_val2017.json"
    (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "val2017").symlink_to(source / "val2017")
    dataset = open_dataset(tmp_path, "val2017")
    written = {a["id"]: a for a in json.loads((source / name).read_text())["annotations"]}
    people = 0
    for record in dataset:
        assert record.keypoints is not None
        for number, points in zip(record.annotation_ids, record.keypoints, strict=True):
            assert points.reshape(-1).tolist() == written[int(number)]["keypoints"]
            people += 1
    assert people == len(written) == 98
