"""The analysis of detections, compared with slow loops, pycocotools and cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
from copy import deepcopy
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.metrics import inputs
from rcnn.metrics.analysis import Confusion, analyse, analysed_kind
from rcnn.metrics.errors import ErrorKind
from rcnn.metrics.thresholds import Thresholds, best_threshold
from tests.unit.random_truth import random_results, random_truth

Entry = dict[str, Any]


def reference(truth: Entry, results: list[Entry], kind: str) -> COCOeval:
    """pycocotools' matches at IoU .50 of all objects, 100 detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = deepcopy(truth)
        coco.createIndex()
        field = {"bbox": "bbox", "segm": "segmentation"}[kind]
        found = coco.loadRes([{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results])
        evaluation = COCOeval(coco, found, kind)
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def matches_of(evaluation: COCOeval) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], int]:
    """Scores and hits of pycocotools' detections that are not ignored, and the number of objects."""
    scores, hits, positives = list[float](), list[bool](), 0
    for image in evaluation.evalImgs:
        if image is not None:
            kept = ~image["dtIgnore"][0].astype(bool)
            scores += np.array(image["dtScores"])[kept].tolist()
            hits += (image["dtMatches"][0][kept] > 0).tolist()
            positives += int((~np.array(image["gtIgnore"], dtype=bool)).sum())
    return np.array(scores), np.array(hits, dtype=bool), positives


def f1_from(score: float, scores: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_], positives: int) -> float:
    kept = scores >= score
    right = int(hits[kept].sum())
    return 2 * right / (int(kept.sum()) + positives)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_curves_and_thresholds_equal_those_of_pycocotools_matches(kind: str) -> None:
    truth = random_truth(3)
    results = random_results(truth, 4)
    found = analyse("coco", truth, results, kind)
    evaluation = reference(truth, results, kind)
    precision = evaluation.eval["precision"][0, :, :, 0, 0]  # (101, K)
    for column, category_id in enumerate(evaluation.params.catIds):
        name = evaluation.cocoGt.cats[category_id]["name"]
        expected = [None if value < 0 else pytest.approx(value, abs=1e-4) for value in precision[:, column]]
        assert found.class_curves[name] == expected
    known = precision[:, (precision > -1).all(axis=0)].mean(axis=1)
    assert found.curves["AP50"] == pytest.approx(known.tolist(), abs=1e-4)

    scores, hits, positives = matches_of(evaluation)
    best = max(f1_from(score, scores, hits, positives) for score in scores)
    overall = found.thresholds.overall
    assert overall is not None
    assert overall.f1 == pytest.approx(best)
    assert f1_from(overall.score, scores, hits, positives) == pytest.approx(best)
    assert overall.recall == pytest.approx(hits[scores >= overall.score].sum() / positives)
    assert overall.precision == pytest.approx(hits[scores >= overall.score].mean())
    assert found.thresholds.per_class["nobody has one"] is None
    assert {name for name, value in found.thresholds.per_class.items() if value} == {"cup", "boat", "kite"}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_calibration_is_the_gap_between_score_and_precision(kind: str) -> None:
    truth = random_truth(5)
    results = random_results(truth, 6)
    scores, hits, _ = matches_of(reference(truth, results, kind))
    found = analyse("coco", truth, results, kind).calibration
    gaps = []
    for one in found["bins"]:
        chosen = (scores >= one["from"] - 1e-9) & (scores < one["to"] - 1e-9)
        assert one["count"] == chosen.sum()
        assert one["score"] == pytest.approx(scores[chosen].mean())
        assert one["precision"] == pytest.approx(hits[chosen].mean())
        gaps.append(chosen.sum() * abs(scores[chosen].mean() - hits[chosen].mean()))
    assert sum(one["count"] for one in found["bins"]) == len(scores)
    assert found["error"] == pytest.approx(sum(gaps) / len(scores))


def test_the_threshold_with_ties_and_nothing_right() -> None:
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.1])
    found = best_threshold(scores, np.array([True, False, True, True, False]), 3)
    assert found is not None
    assert (found.score, found.precision, found.recall) == (pytest.approx(0.3), 0.75, 1.0)
    alone = best_threshold(np.array([0.25]), np.array([True]), 1)
    assert alone is not None
    assert alone.score == 0.25, "there is no lower score"
    assert best_threshold(scores, np.zeros(5, dtype=bool), 3) is None
    assert best_threshold(scores[:0], np.zeros(0, dtype=bool), 3) is None
    assert best_threshold(scores, np.ones(5, dtype=bool), 0) is None


def scene(*boxes: tuple[int, float, float], difficult: int = -1) -> Entry:
    """Objects of (category, x, width), 20 pixels high, in one image; one of them is difficult."""
    return {
        "images": [{"id": 1, "height": 100, "width": 400}, {"id": 2, "height": 100, "width": 400}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "kite"}],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 1,
                "category_id": category,
                "bbox": [x, 0, width, 20],
                "iscrowd": 0,
                "difficult": int(number == difficult),
            }
            for number, (category, x, width) in enumerate(boxes)
        ],
    }


def found(category: int, x: float, width: float, score: float, image: int = 1) -> Entry:
    return {"image_id": image, "category_id": category, "bbox": [x, 0, width, 20], "score": score}


def no_thresholds(*_: object) -> Thresholds:
    return Thresholds(overall=None, per_class={})


TRUTH = scene((1, 0, 20), (1, 100, 20), (2, 200, 20), (2, 300, 20))
RESULTS = [
    found(1, 0, 20, 0.9),  # right
    found(1, 2, 20, 0.8),  # the same object again
    found(1, 112, 20, 0.7),  # IoU 8 / 32 with the second cup
    found(1, 200, 20, 0.6),  # a kite
    found(1, 312, 20, 0.6),  # IoU .25 with a kite
    found(2, 360, 20, 0.6),  # nothing there
    found(1, 0, 20, 0.6, image=2),
]


def test_each_kind_of_error_by_hand() -> None:
    result = analyse("coco", TRUTH, RESULTS, "bbox")
    assert result.thresholds.overall is not None
    assert result.score == pytest.approx(0.85), "only the first is right: one object of four, precision 1"
    everything = {**TRUTH, "annotations": [*TRUTH["annotations"], *scene((2, 380, 20))["annotations"]]}
    everything["annotations"][-1] = {**everything["annotations"][-1], "id": 5}
    lowest = analyse("coco", everything, [*RESULTS, found(2, 300, 20, 0.5), found(2, 380, 20, 0.5)], "bbox")
    assert lowest.score == 0.5
    kinds = {error.kind: error for error in lowest.images[0].errors}
    assert set(kinds) == {"duplicate", "location", "class", "both", "background"}
    assert lowest.images[0].hits == 3
    judged = {d.error: d.result for d in lowest.images[0].detections if d.error}
    assert judged == dict(zip(kinds, RESULTS[1:6], strict=True))
    assert [image.image_id for image in lowest.images] == [1, 2]
    assert [error.kind for error in lowest.images[1].errors] == ["background"]
    assert lowest.tide["counts"] == {
        "class": 1, "location": 1, "both": 1, "duplicate": 1, "background": 2, "missed": 0,
    }  # fmt: skip


def test_a_missed_object_and_the_confusions() -> None:
    result = analyse("coco", TRUTH, RESULTS, "bbox")
    assert [error.class_name for error in result.images[0].errors if error.kind == "missed"] == ["cup", "kite", "kite"]
    assert set(result.confusions) == {
        Confusion(truth="cup", predicted="cup", count=1),
        Confusion(truth="cup", predicted="", count=1),
        Confusion(truth="kite", predicted="", count=2),
    }
    assert result.counts == {
        "cup": {"images": 1, "objects": 2, "small": 2, "medium": 0, "large": 0, "detections": 1},
        "kite": {"images": 1, "objects": 2, "small": 2, "medium": 0, "large": 0, "detections": 0},
    }


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_confusions_are_those_of_what_pycocotools_counts(kind: str) -> None:
    """Each object and each detection once; those that pycocotools ignores, because of crowds, not at all."""
    truth = random_truth(9)
    results = random_results(truth, 10)
    result = analyse("coco", truth, results, kind)
    scores, _, positives = matches_of(reference(truth, results, kind))
    assert (scores >= result.score).sum() < sum(one["score"] >= result.score for one in results), "some are ignored"
    assert sum(one.count for one in result.confusions if one.predicted) == (scores >= result.score).sum()
    assert sum(one.count for one in result.confusions if one.truth) == positives


def test_a_detection_of_an_ignored_object_is_no_confusion() -> None:
    """It is neither right nor wrong for AP: a crowd, a difficult object (VOC), a class nobody searched for (LVIS)."""
    right = (Confusion(truth="cup", predicted="cup", count=1),)
    results = [found(1, 0, 20, 0.9), found(2, 200, 20, 0.9)]
    truth = scene((1, 0, 20), (2, 200, 20), difficult=1)
    assert analyse("voc2012", truth, results, "bbox").confusions == right
    crowd = {**truth, "annotations": [truth["annotations"][0], truth["annotations"][1] | {"iscrowd": 1}]}
    assert analyse("coco", crowd, results, "bbox").confusions == right
    bare = deepcopy(truth)
    bare["annotations"][0]["segmentation"] = [[0, 0, 20, 0, 20, 20, 0, 20]]
    masks = [
        one | {"segmentation": [[x, 0, x + 20, 0, x + 20, 20, x, 20]]} for one, x in zip(results, (0, 200), strict=True)
    ]
    assert analyse("coco", bare, masks, "segm").confusions == right
    lvis = scene((1, 0, 20))
    for image in lvis["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    assert analyse("lvis", lvis, results, "bbox").confusions == right
    assert set(analyse("coco", scene((1, 0, 20)), results, "bbox").confusions) == {
        *right,
        Confusion(truth="", predicted="kite", count=1),
    }


def test_the_limit_of_detections_of_a_class_is_not_one_for_all_classes() -> None:
    """120 objects of two classes in an image, all found: COCO counts 100 detections of each class."""
    boxes = [(1 + place % 2, 22.0 * place, 20.0) for place in range(120)]
    result = analyse("coco", scene(*boxes), [found(*box, 0.9) for box in boxes], "bbox")
    assert result.curves["AP50"] == [1] * 101
    assert set(result.confusions) == {Confusion(truth=name, predicted=name, count=60) for name in ("cup", "kite")}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_errors_of_all_images_add_up_to_those_of_tide(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted image by image here, over the whole data set by hotcoco."""
    truth = random_truth(7, images=30)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    monkeypatch.setattr("rcnn.metrics.analysis.DRAWN_SCORE", 0.0)
    monkeypatch.setattr("rcnn.metrics.analysis._Matches.thresholds", no_thresholds)
    result = analyse("coco", truth, random_results(truth, 8), kind)
    counts = {
        kind: sum(error.kind == kind for image in result.images for error in image.errors)
        for kind in get_args(ErrorKind)
    }
    assert counts == result.tide["counts"]
    assert min(counts.values()) >= 0
    assert sum(image.hits for image in result.images) > 20


def test_difficult_objects_are_ignored_with_vocs_metric() -> None:
    truth = scene((1, 0, 20), (1, 100, 20), difficult=1)
    results = [found(1, 0, 20, 0.9), found(1, 100, 20, 0.8)]
    assert [image.errors for image in analyse("voc2012", truth, results[:1], "bbox").images] == [(), ()]
    both = analyse("voc2012", truth, results, "bbox")
    assert [(image.image_id, image.hits, image.errors) for image in both.images] == [(2, 0, ()), (1, 1, ())]
    assert both.counts["cup"]["objects"] == 1
    assert len(analyse("coco", truth, results[:1], "bbox").images[0].errors) == 1


def test_lvis_classes_that_were_not_searched_for_are_no_errors() -> None:
    truth = random_truth(0)
    for image in truth["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in truth["categories"]:
        category["frequency"] = "f"
    results = random_results(truth, 1)
    unsearched = [r for r in results if r["category_id"] == 4]
    assert unsearched
    found = analyse("lvis", truth, results, "bbox")
    assert not [error for image in found.images for error in image.errors if error.class_name == "nobody has one"]


def test_no_detections_and_no_objects() -> None:
    nothing = analyse("coco", TRUTH, [], "bbox")
    assert (nothing.thresholds.overall, nothing.score) == (None, 0.5)
    assert [error.kind for error in nothing.images[0].errors] == ["missed"] * 4
    empty = analyse("coco", {**TRUTH, "annotations": []}, RESULTS, "bbox")
    assert empty.curves["AP50"] == [None] * 101
    assert sum(len(image.errors) for image in empty.images) == len(RESULTS)
    assert analysed_kind(("bbox", "segm")) == "segm"
    assert analysed_kind(("bbox", "keypoints")) == "bbox"
    assert analysed_kind(("bbox", "proposals")) == ""


@pytest.mark.parametrize("metric", ["coco", "voc2012"])
def test_the_analysis_of_checked_results_is_the_same(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(9)
    results = random_results(truth, 10)
    few = range(1, 12)
    expected = analyse(metric, truth, results, "segm", few)
    for check in ("check_ground_truth", "check_results", "check_masks"):
        monkeypatch.delattr(inputs, check)
    assert analyse(metric, truth, results, "segm", few, checked=True) == expected
    assert len(expected.images) == len(few)
