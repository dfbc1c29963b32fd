"""Conversions of results: masks at image size, COCO, supervision, pictures, notebooks."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.cli.formats import mask_png
from rcnn.data.image_inputs import ImageSource
from rcnn.ops.masks import PastedMask
from rcnn.results import ImageDetections
from rcnn.weights.systems.classes import COCO_CATEGORY_IDS, COCO_CLASSES

RESULT = ImageDetections(
    height=40,
    width=60,
    boxes=np.array([[10, 5, 30, 25], [0, 0, 60, 40]], np.float32),
    scores=np.array([0.9, 0.3], np.float32),
    labels=np.array([1, 0]),
    box_masks=np.ones((2, 28, 28), np.float32),
    classes=("square", "<disc>"),
    source=ImageSource(image=np.full((40, 60, 3), 200, np.uint8)),
)


def test_masks_are_bool_at_image_size() -> None:
    assert RESULT.masks is not None
    assert (RESULT.masks.shape, RESULT.masks.dtype) == ((2, 40, 60), np.bool_)
    expected = np.zeros((40, 60), bool)
    expected[5:25, 10:30] = True
    np.testing.assert_array_equal(RESULT.masks[0], expected)
    assert RESULT.masks[1].all()
    assert replace(RESULT, box_masks=None).masks is None


def test_the_ids_of_very_many_masks() -> None:
    ids = RESULT.to_id_mask()
    assert (ids.dtype, ids[10, 15], ids[0, 0]) == (np.uint16, 1, 2)
    number = 1 << 16
    empty, last = PastedMask(0, 0, np.zeros((1, 1), bool)), PastedMask(10, 5, np.ones((20, 20), bool))
    many = replace(
        RESULT, boxes=np.zeros((number, 4), np.float32), scores=np.ones(number, np.float32),
        labels=np.zeros(number, int), box_masks=None, pasted=(*[empty] * (number - 1), last),
    )  # fmt: skip
    ids = many.to_id_mask()
    assert (ids.dtype, ids[10, 15], ids[30, 40]) == (np.uint32, number, 0)
    with pytest.raises(ValueError, match="65,536 objects, but the 16-bit PNG of --format masks has numbers for 65,535"):
        mask_png(many)


def test_the_best_of_overlapping_masks_is_on_top_in_any_order() -> None:
    """Rows for given boxes are in the order of the boxes."""
    assert RESULT[[1, 0]].to_id_mask()[10, 15] == 2
    tied = replace(RESULT, scores=np.array([0.5, 0.5], np.float32))
    assert tied.to_id_mask()[10, 15] == tied[[1, 0]].to_id_mask()[10, 15] == 1, "the first of equal scores"


def test_classes_are_chosen_by_one_name_or_several() -> None:
    assert RESULT.of_classes("square").names == ("square",)
    numbers = replace(RESULT, classes=("0", "1"))
    with pytest.raises(ValueError, match="the model has no class '10'"):
        numbers.of_classes("10")


def test_results_are_compared_by_identity() -> None:
    other = replace(RESULT)
    assert RESULT not in [other]
    assert len({RESULT, other, RESULT}) == 2
    assert RESULT[0] == RESULT[0]


def test_names() -> None:
    assert RESULT.names == ("<disc>", "square")
    assert replace(RESULT, classes=()).names == ("1", "0")
    assert repr(RESULT) == "ImageDetections(60 x 40, 2 objects: <disc> 0.90, square 0.30)"
    assert [entry["name"] for entry in RESULT.to_json()] == ["<disc>", "square"]


def test_coco() -> None:
    first, second = RESULT.to_coco(7, [10, 20])
    assert (first["image_id"], first["category_id"], first["bbox"]) == (7, 20, [10, 5, 20, 20])
    assert second["category_id"] == 10
    assert first["segmentation"]["size"] == [40, 60]
    assert RESULT.to_coco(7)[0]["category_id"] == 2
    ids: Any = np.array([10, 20])
    number: Any = np.int64(7)
    assert json.dumps(RESULT.to_coco(number, ids)) == json.dumps([first, second])
    by_label: Any = {0: 0.5}
    with pytest.raises(ValueError, match="has no class 0; it has"):
        RESULT.above(by_label)
    assert replace(RESULT, classes=()).to_coco(7)[0]["category_id"] == 2


def test_coco_classes_have_cocos_own_ids() -> None:
    laptop = replace(RESULT, classes=COCO_CLASSES, labels=np.array([COCO_CLASSES.index("laptop"), 0]))
    assert [found["category_id"] for found in laptop.to_coco(7)] == [73, 1]
    toothbrush = replace(laptop, labels=np.array([79, 11]))
    assert [found["category_id"] for found in toothbrush.to_coco(7)] == [90, 13]
    other_order = replace(laptop, classes=COCO_CLASSES[::-1])
    assert [found["category_id"] for found in other_order.to_coco(7)] == [64, 1]


def test_the_ids_are_those_of_cocos_annotations(shared: Path) -> None:
    file = shared / "data" / "coco449" / "annotations" / "instances_val2017.json"
    categories = json.loads(file.read_text(encoding="utf-8"))["categories"]
    assert {entry["name"]: entry["id"] for entry in categories} == dict(
        zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True)
    )


def test_pictures() -> None:
    picture = np.asarray(RESULT.draw())
    assert picture.shape == (40, 60, 3)
    assert (picture != 200).any()
    png, page = RESULT._repr_png_(), RESULT._repr_html_()
    assert png is not None
    assert page is not None
    assert png.startswith(b"\x89PNG")
    assert "&lt;disc&gt;" in page
    assert "<disc>" not in page
    for wrong, message in (
        ({"colour_by": "klass"}, "colour_by='klass' is not known; expected instance, class"),
        ({"labels": ["cat"]}, "got .* for labels; expected True or False"),
        ({"contour": "no"}, "got .* for contour; expected True or False"),
        ({"keypoint_score": "a"}, "keypoint_score='a'; expected a number of 0 or more"),
        ({"line_width": 0.5}, "line_width=0.5; expected 1 or more pixels, or None"),
    ):
        given: dict[str, Any] = wrong
        with pytest.raises(ValueError, match=f"^{message}"):
            RESULT.draw(**given)
    width: Any = np.array(3)
    np.testing.assert_array_equal(RESULT.draw(line_width=width), RESULT.draw(line_width=3))
    unknown = replace(RESULT, source=None)
    assert unknown._repr_html_() is unknown._repr_png_() is None
    with pytest.raises(ValueError, match=r"pass the image, result\.draw\(image\)"):
        unknown.draw()
    with pytest.raises(ValueError, match=r"the image has size \(9, 9\) \(height, width\)"):
        unknown.draw(np.zeros((9, 9), np.uint8))


def test_supervision() -> None:
    supervision = pytest.importorskip("supervision", reason="needs rcnn[supervision]")
    detections = RESULT.to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, RESULT.boxes)
    assert list(detections["class_name"]) == ["<disc>", "square"]
    assert detections.mask.shape == (2, 40, 60)


def test_index_slice_and_loop() -> None:
    assert len(RESULT) == 2
    first, second = RESULT
    assert (first.name, first.label, repr(first)) == ("<disc>", 1, "DetectedObject(<disc> 0.90, box 10 5 30 25)")
    assert first.score == pytest.approx(0.9)
    np.testing.assert_array_equal(first.box, [10, 5, 30, 25])
    assert first.mask is not None
    assert RESULT.masks is not None
    np.testing.assert_array_equal(first.mask, RESULT.masks[0])
    assert first.keypoints is None
    assert RESULT[-1] == RESULT[1]
    assert RESULT[-1].label == second.label
    assert RESULT[np.int64(1)].name == "square"
    assert RESULT[:1].names == RESULT[RESULT.labels == 1].names == RESULT[np.array([0])].names == ("<disc>",)
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"there is no detection {index}: the image has 2"):
            RESULT[index]


def test_lists_and_wrong_indices() -> None:
    assert RESULT[[name == "square" for name in RESULT.names]].names == RESULT[[1]].names == ("square",)
    assert len(RESULT[[]]) == 0
    wrong: list[Any] = ["cat", None, 1.5, [0.5], np.zeros((2, 2), bool), ["cat"]]
    for index in wrong:
        with pytest.raises(TypeError, match=r"a result cannot be indexed by .*expected an index, a slice, 2 bools"):
            RESULT[index]
    with pytest.raises(TypeError, match=r"for one class: result\[\[name == 'cat' for name in result\.names\]\]"):
        RESULT[wrong[0]]
    with pytest.raises(IndexError, match="got 3 bools; expected 2, one for each detection"):
        RESULT[[True, False, True]]


@pytest.mark.parametrize(
    "score", ["a", None, float("nan"), -0.1, 1.5, True, np.array([0.5]), torch.zeros((), device="meta")]
)
def test_a_score_is_a_number(score: float) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        RESULT.above(score)
    numbers: tuple[Any, ...] = (np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2))
    for number in numbers:
        assert len(RESULT.above(number)) == len(RESULT.above({"<disc>": number, "square": number})) == 1


def test_other_numbers_and_ids_are_checked() -> None:
    wrong: Any = "a"
    with pytest.raises(ValueError, match=r"^tolerance='a'; expected a number of pixels, 0 or more"):
        RESULT.to_labelme("a.jpg", tolerance=wrong)
    with pytest.raises(ValueError, match=r"^tolerance=-1; expected a number of pixels, 0 or more"):
        RESULT.to_yolo(tolerance=-1)
    for ids in (None, 0.5, Path("a.jpg"), [7]):
        image_id: Any = ids
        with pytest.raises(ValueError, match="for image_id; expected the id of the image in the data set"):
            RESULT.to_coco(image_id)
    for one in (np.array(7), torch.tensor(7), np.int64(7)):
        number: Any = one
        assert json.loads(json.dumps(RESULT.to_coco(number, torch.tensor([5, 6]).tolist())))[0]["image_id"] == 7
        categories: Any = torch.tensor([5, 6])
        assert json.loads(json.dumps(RESULT.to_coco(7, categories)))[0]["category_id"] == 6


def test_there_is_a_value_for_each_class() -> None:
    with pytest.raises(ValueError, match=r"category_ids has length 1; expected 2, one value for each class in order"):
        RESULT.to_coco(7, [10])
    with pytest.raises(ValueError, match=r"names has length 1; expected 2"):
        RESULT.to_json(["square"])
    with pytest.raises(ValueError, match=r"expected 2"):
        replace(RESULT, classes=()).to_coco(7, [10])
