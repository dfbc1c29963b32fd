"""VOC's metrics against slow code written from the definition, and against values computed by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from rcnn.metrics.choice import evaluate as evaluate_as
from rcnn.metrics.voc import Year, evaluate
from tests.unit.random_truth import HEIGHT, WIDTH, random_results, random_truth

Entry = dict[str, Any]


def slow_average_precision(truth: Entry, results: list[Entry], kind: str, category: int, threshold: float, year: int):
    """VOCevaldet.m, object by object; its boxes are inclusive: x2 - x1 + 1 wide. None without objects."""
    objects = [
        {"image": a["image_id"], "shape": shape_of(a, kind), "ignored": a["difficult"] or a["iscrowd"], "found": False}
        for a in truth["annotations"]
        if a["category_id"] == category
    ]
    positives = sum(1 for one in objects if not one["ignored"])
    if positives == 0:
        return None
    mine = [r for r in results if r["category_id"] == category]
    mine.sort(key=lambda result: (-result["score"], result["image_id"]))
    right, wrong, curve = 0, 0, list[tuple[float, float]]()
    for result in mine:
        best, most = None, -1.0
        for one in objects:
            if one["image"] == result["image_id"]:
                overlap = slow_iou(shape_of(result, kind), one["shape"])
                if overlap > most:
                    best, most = one, overlap
        if best is None or most < threshold:
            wrong += 1
        elif not best["ignored"]:
            if best["found"]:
                wrong += 1
            else:
                right, best["found"] = right + 1, True
        curve.append((right / positives, right / (right + wrong) if right + wrong else 0.0))
    if year == 2007:
        places = [place * 0.1 for place in range(11)]
        return sum(max([p for r, p in curve if r >= place], default=0.0) for place in places) / 11
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[index:])
        before = recall
    return area


def shape_of(entry: Entry, kind: str) -> Any:
    """An inclusive box, or a bitmap."""
    if kind == "bbox":
        x, y, width, height = entry["bbox"]
        return x, y, x + width - 1, y + height - 1
    outline = entry["segmentation"]
    encoded = outline if isinstance(outline, dict) else rle.merge(rle.frPyObjects(outline, HEIGHT, WIDTH))
    return rle.decode(encoded).astype(bool)


def slow_iou(a: Any, b: Any) -> float:
    if isinstance(a, tuple):
        wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
        high = min(a[3], b[3]) - max(a[1], b[1]) + 1
        if wide <= 0 or high <= 0:
            return 0.0
        areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (a, b)]
        return wide * high / (sum(areas) - wide * high)
    return float((a & b).sum() / (a | b).sum())


def voc_truth(seed: int) -> Entry:
    """Random ground truth with whole pixels; a quarter of the objects are difficult."""
    truth, random = random_truth(seed, images=12), np.random.default_rng(seed)
    for annotation in truth["annotations"]:
        annotation["bbox"] = [float(round(value)) for value in annotation["bbox"]]
        annotation["difficult"] = int(random.random() < 0.25)
    return truth


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(3))
def test_equals_slow_code(seed: int, year: Year) -> None:
    truth = voc_truth(seed)
    results = sorted(random_results(truth, seed + 50), key=lambda result: result["image_id"])
    metrics = evaluate(truth, results, ("bbox", "segm"), year=year)
    assert metrics.metric == f"voc{year}"
    for kind, thresholds in {"bbox": {"AP50": 0.5}, "segm": {"AP50": 0.5, "AP70": 0.7}}.items():
        for name, threshold in thresholds.items():
            values = list[float]()
            for category in truth["categories"]:
                expected = slow_average_precision(truth, results, kind, category["id"], threshold, year)
                assert metrics.per_class[category["name"]][kind][name] == pytest.approx(expected, abs=1e-9)
                values += [] if expected is None else [expected]
            assert len(values) == 3, "nobody has the fourth class"
            assert 0.05 < np.mean(values) < 0.95
            assert metrics.kinds[kind][name] == pytest.approx(np.mean(values), abs=1e-9)
        assert metrics.kinds[kind]["AP"] == metrics.kinds[kind]["AP50"]
    assert sum(metrics.objects.values()) == sum(
        1 for a in truth["annotations"] if not a["difficult"] and not a["iscrowd"]
    )


def square(image_id: int, side: float, **more: Any) -> Entry:
    return {"image_id": image_id, "category_id": 1, "bbox": [0.0, 0.0, side, side], **more}


def small_truth(*annotations: Entry, images: int = 3) -> Entry:
    return {
        "images": [{"id": i, "height": 100, "width": 100} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
    }


def bbox_ap(truth: Entry, results: list[Entry], year: Year) -> float | None:
    return evaluate(truth, results, ("bbox",), year=year).kinds["bbox"]["AP"]


def test_a_case_computed_by_hand() -> None:
    """Right (.9), wrong (.8), right (.7) of 3 objects: precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3."""
    truth = small_truth(square(1, 20), square(2, 20), square(3, 20))
    results = [square(1, 20, score=0.9), square(1, 20, score=0.8), square(3, 15, score=0.7)]  # IoU 225/400
    assert bbox_ap(truth, results, 2012) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert bbox_ap(truth, results, 2007) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recalls 0-.3, .4-.6


def test_a_recall_of_exactly_six_tenths_does_not_reach_the_seventh_point() -> None:
    """As in py-faster-rcnn's voc_eval.py and ChainerCV, where it is .6000000000000001; in MATLAB it is .6."""
    truth = small_truth(*(square(image, 20) for image in range(1, 6)), images=5)
    results = [square(image, 20, score=0.9) for image in range(1, 4)]
    assert bbox_ap(truth, results, 2007) == pytest.approx(6 / 11)


@pytest.mark.parametrize("year", [2007, 2012])
def test_difficult_objects_are_neither_required_nor_wrong(year: Year) -> None:
    truth = small_truth(square(1, 20), square(2, 20, difficult=1))
    right, difficult, wrong = square(1, 20, score=0.5), square(2, 20, score=0.9), square(3, 20, score=0.8)
    assert bbox_ap(truth, [right], year) == pytest.approx(1)
    assert bbox_ap(truth, [right, difficult, difficult], year) == pytest.approx(1)
    assert bbox_ap(truth, [right, difficult, wrong], year) == pytest.approx(0.5)
    assert bbox_ap(small_truth(square(2, 20, difficult=1)), [difficult], year) is None


def test_an_overlap_of_exactly_one_half_is_right() -> None:
    half = {**square(1, 20, score=0.9), "bbox": [0.0, 0.0, 20.0, 10.0]}
    assert bbox_ap(small_truth(square(1, 20)), [half], 2012) == pytest.approx(1)


def test_no_detections_and_no_objects() -> None:
    assert bbox_ap(small_truth(square(1, 20)), [], 2007) == 0
    assert bbox_ap(small_truth(), [square(1, 20, score=1.0)], 2012) is None
    assert evaluate(small_truth(), [], ("bbox", "segm")).kinds["segm"] == {"AP": None, "AP50": None, "AP70": None}


def test_an_object_without_outline_is_ignored_in_masks() -> None:
    """As if it were difficult, with its box for an outline."""
    truth = voc_truth(3)
    bare, ignored = deepcopy(truth), deepcopy(truth)
    for number in range(0, len(truth["annotations"]), 4):
        x, y, width, height = truth["annotations"][number]["bbox"]
        box = [x, y, x, y + height, x + width, y + height, x + width, y]
        ignored["annotations"][number] |= {"difficult": 1, "segmentation": [box]}
        del bare["annotations"][number]["segmentation"]
    results = random_results(truth, 4)
    metrics = evaluate(bare, results, ("segm",))
    assert metrics.kinds == evaluate(ignored, results, ("segm",)).kinds
    assert 0 < (metrics.kinds["segm"]["AP"] or 0) < 1
    for annotation in bare["annotations"]:
        annotation.pop("segmentation", None)
    with pytest.raises(ValueError, match="has no outline in any annotation"):
        evaluate(bare, results, ("segm",))


def test_refusals() -> None:
    truth = small_truth(square(1, 20))
    with pytest.raises(ValueError, match="kind 'keypoints' is not known; expected bbox, segm"):
        evaluate(truth, [], ("keypoints",))
    with pytest.raises(ValueError, match=r"result 0 \(image 1\) has no 'segmentation'"):
        evaluate(small_truth(square(1, 20, segmentation=[[0, 0, 9, 0, 9, 9]])), [square(1, 20, score=1.0)], ("segm",))
    with pytest.raises(ValueError, match=r"max_detections=5 \(--max-detections\): the metric voc2007 counts all"):
        evaluate_as("voc2007", truth, [], ("bbox",), max_detections=5)
