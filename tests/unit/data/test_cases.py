"""The inputs that public bug reports describe (shared/cases): what each is read as, and the warning about it.

Every image of the cases has the same two objects, unless a test says otherwise.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data import Dataset, open_dataset, splits
from rcnn.data.skeletons import skeleton_of

FIRST, SECOND = [10.0, 8.0, 40.0, 32.0], [50.0, 30.0, 82.0, 56.0]  # xyxy


@pytest.fixture
def cases(shared: Path) -> Path:
    folder = shared / "cases"
    if not folder.is_dir():
        pytest.skip("needs the project's shared cases (../shared/cases beside the checkout)")
    return folder


def two_objects_each(dataset: Dataset, images: int) -> bool:
    return [record.boxes.tolist() for record in dataset] == [[FIRST, SECOND]] * images and all(
        record.path.is_file() for record in dataset
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_roboflows_placeholder_category_is_removed(cases: Path, split: str) -> None:
    dataset = open_dataset(cases / "01-roboflow-category0" / "data", split)
    assert (dataset.classes, dataset.category_ids) == (("fish", "ray"), (1, 2))
    assert dataset[0].labels.tolist() == [1, 0]
    assert two_objects_each(dataset, 3)
    assert len(dataset.notes) == 1


@pytest.mark.parametrize(
    ("case", "split", "warning"),
    [
        ("02-backslash/data", "result", "3 images have a file_name with backslashes"),
        ("05-lvis-no-file_name/data", "train", ""),
        ("05-lvis-no-file_name/data", "lvis_v1_train", ""),
        (
            "06-via-coco-export-image_id-text/data",
            "train",
            "6 annotations have an image_id that is text where the file",
        ),
        ("13-duplicate-annotation-ids/data", "train", "1 annotation has an id that another annotation has too (id 2)"),
        ("16-iscrowd-text-and-null/null", "train", "6 annotations have an iscrowd that is neither 0 nor 1"),
        ("16-iscrowd-text-and-null/null", "val", "6 annotations have an iscrowd that is neither 0 nor 1"),
        ("27-bbox-forms/xyxy", "train", "all boxes are read as [x1, y1, x2, y2], which agrees with the outlines"),
        ("41-segmentation-of-pairs/points", "val", "6 annotations have a segmentation of points [[x, y], ...]"),
    ],
)
def test_three_images_with_the_right_objects(cases: Path, case: str, split: str, warning: str) -> None:
    dataset = open_dataset(cases / case, split)
    assert dataset.classes == ("cat", "dog")
    assert two_objects_each(dataset, 3)
    assert all(record.labels.tolist() == [0, 1] and not record.ignored.any() for record in dataset)
    for outline in (outline for record in dataset for outline in record.segmentations):
        assert isinstance(outline, tuple)
        assert len(outline[0]) == 8
    assert [warning in line for line in dataset.warnings] == [True] * bool(warning)
    assert len(dataset.to_coco()["annotations"]) == 6


@pytest.mark.parametrize(("case", "reason"), [("15-no-objects-at-all", ""), ("29-all-crowd", "only 6 crowds")])
@pytest.mark.parametrize("split", ["train", "val"])
def test_sets_without_objects_are_refused(cases: Path, case: str, reason: str, split: str) -> None:
    with pytest.raises(ValueError, match=f"instances_{split}.json has 3 images and no objects to train") as error:
        open_dataset(cases / case / "data", split)
    assert reason in str(error.value)
    assert open_dataset(cases / case / "data", split, allow_empty=True).num_training_objects == 0


def test_corners_of_cards_are_flip_pairs(cases: Path) -> None:
    dataset = open_dataset(cases / "20-flip-of-numbered-keypoints" / "data", "train", keypoints=True)
    skeleton = skeleton_of(dataset)
    assert (skeleton.names, skeleton.pairs) == (("tl", "tr", "br", "bl"), ((0, 1), (3, 2)))
    assert dataset.warnings == ()


def test_a_name_in_another_case(cases: Path) -> None:
    dataset = open_dataset(cases / "22-file-name-forms" / "case", "train")
    assert two_objects_each(dataset, 1)
    assert dataset.file_names == ("IMG_1.PNG",)


@pytest.mark.parametrize("split", ["train", "val"])
def test_nested_keypoints(cases: Path, split: str) -> None:
    dataset = open_dataset(cases / "25-keypoints-some-categories" / "nested", split, keypoints=True)
    assert two_objects_each(dataset, 3)
    first = dataset[0].keypoints
    assert first is not None
    assert first.tolist() == [[[10, 8, 2], [40, 8, 2], [40, 32, 2]], [[50, 30, 2], [82, 30, 2], [82, 56, 2]]]
    assert "6 annotations have keypoints as a list of points" in dataset.warnings[0]


def test_a_class_of_the_validation_set_alone(cases: Path) -> None:
    folder = cases / "26-class-only-in-val" / "data"
    train = open_dataset(folder, "train")
    validation = open_dataset(folder, "val", classes=train.classes)
    assert (train.classes, validation.category_ids) == (("cat",), (2,))
    assert [record.boxes.tolist() for record in validation] == [[SECOND]] * 3
    assert "3 objects of 1 class that the model lacks ('dog') are ignored; the model has cat." in validation.warnings[0]
    assert len(validation.to_coco()["annotations"]) == 3


@pytest.mark.parametrize("form", ["four", "null"])
def test_objects_without_outline_keep_their_boxes(cases: Path, form: str) -> None:
    dataset = open_dataset(cases / "30-empty-rle-and-short-polygons-in-eval" / form, "val")
    assert two_objects_each(dataset, 2)
    assert [outline is None for record in dataset for outline in record.segmentations] == [True, False, False, False]
    assert "1 annotation has a box but no outline (id 1)" in dataset.warnings[-1]


def test_two_checked_boxes_are_reported(cases: Path) -> None:
    with pytest.raises(ValueError, match="no objects to train or evaluate on") as error:
        open_dataset(cases / "35-via-forms" / "checkbox", "train")
    assert "2 boxes of the class attribute 'type' ticked (cat, dog), expected one (region 0 of im0.png)" in str(
        error.value
    )


def test_a_skeleton_beyond_the_names(cases: Path) -> None:
    dataset = open_dataset(cases / "38-skeleton-beyond-the-names" / "crowdpose", "train", keypoints=True)
    assert skeleton_of(dataset).lines == ((1, 2), (0, 1))
    assert "2 of 4 lines that do not join two of the keypoints" in dataset.warnings[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_infinite_box_is_skipped(cases: Path, split: str) -> None:
    dataset = open_dataset(cases / "39-bbox-infinite" / "data", split)
    assert [record.boxes.tolist() for record in dataset] == [[SECOND], [FIRST, SECOND], [FIRST, SECOND]]
    assert "(id 1): skipped" in dataset.warnings[0]
    assert len(dataset.to_coco()["annotations"]) == 5


def test_a_rectangle_and_a_polygon(cases: Path) -> None:
    dataset = open_dataset(cases / "44-via-rect-and-polygon-eval" / "data", "val")
    assert two_objects_each(dataset, 1)
    assert [outline is None for outline in dataset[0].segmentations] == [False, True]
    assert dataset.has_outlines


def test_tigers_of_atrw(cases: Path) -> None:
    root = cases / "47-real-keypoint-files" / "atrw"
    assert splits(root) == ["train"]
    dataset = open_dataset(root, "train", keypoints=True)
    skeleton = skeleton_of(dataset)
    assert (len(skeleton.names), skeleton.lines[0], skeleton.lines[3]) == (15, (0, 2), (5, 6))
    assert skeleton.pairs == ((0, 1), (5, 3), (6, 4), (10, 7), (11, 8), (12, 9))
    assert dataset[0].boxes.tolist() == [[0, 0, 1239, 731]]
    assert dataset[0].keypoints is not None
    assert dataset[0].keypoints[0, 2].tolist() == [191, 368, 2]
    assert "a skeleton that counts keypoints from 0" in dataset.warnings[0]
