"""Keypoint metrics against pycocotools, with COCO's sigmas and with a data set's own."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.metrics.analysis import keypoint_curves
from rcnn.metrics.coco import METRICS, evaluate
from rcnn.metrics.tables import metrics_table
from rcnn.models.config import COCO_SIGMAS
from tests.narrow import present

SIGMAS = (0.05, 0.08, 0.03, 0.1, 0.06)


def truth_and_results(count: int, classes: int = 1, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of `count` keypoints and detections that are off by more and more; some objects have no keypoints."""
    generator = np.random.default_rng(seed)
    images = [{"id": i, "width": 400, "height": 400} for i in range(1, 9)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(5):
            x, y, side = *generator.uniform(0, 200, 2), float(generator.uniform(30, 200))
            points = np.column_stack([generator.uniform(0, side, (count, 2)) + np.array([x, y]), np.full(count, 2.0)])
            points[generator.random(count) < 0.3] = 0
            if generator.random() < 0.15:
                points[:] = 0
            category = int(generator.integers(classes)) + 1
            common = {"image_id": image["id"], "category_id": category, "bbox": [x, y, side, side]}
            given = {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            entry = {"id": len(annotations) + 1, "area": side * side * 0.6, "iscrowd": int(generator.random() < 0.1)}
            annotations.append(common | entry | given)
            if generator.random() < 0.85:
                moved = points + generator.normal(0, side * generator.choice([0.01, 0.05, 0.12]), points.shape)
                moved[:, 2] = 0.3
                results.append(common | {"score": float(generator.random()), "keypoints": moved.ravel().tolist()})
    categories = [{"id": number + 1, "name": f"kind {number}"} for number in range(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def test_the_mean_of_a_curve_is_the_average_precision() -> None:
    truth, results = truth_and_results(5)
    curves = keypoint_curves(truth, results, sigmas=SIGMAS)
    expected = pycocotools(truth, results, SIGMAS)
    for name, value in zip(("AP", "AP50", "AP75"), expected, strict=False):
        assert np.mean([present(one) for one in curves[name]]) == pytest.approx(value, abs=1e-4)  # 4 digits are kept


def pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], sigmas: tuple[float, ...]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        # without their boxes: COCO takes a result with a box for one of boxes
        plain = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
        evaluation = COCOeval(coco, coco.loadRes(plain), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize(("count", "sigmas", "classes"), [(17, COCO_SIGMAS, 1), (5, SIGMAS, 1), (5, SIGMAS, 3)])
def test_metrics_equal_pycocotools(count: int, sigmas: tuple[float, ...], classes: int) -> None:
    truth, results = truth_and_results(count, classes)
    found = evaluate(truth, results, ("keypoints",), keypoint_sigmas=sigmas)
    expected = pycocotools(truth, results, sigmas)
    assert 0.1 < expected[0] < 0.9
    assert list(found.kinds["keypoints"].values()) == pytest.approx(expected, abs=1e-9)
    assert list(found.kinds["keypoints"]) == list(METRICS["keypoints"])


def test_sigmas_matter() -> None:
    truth, results = truth_and_results(5)
    loose = evaluate(truth, results, ("keypoints",), keypoint_sigmas=[0.3] * 5).kinds["keypoints"]["AP"]
    strict = evaluate(truth, results, ("keypoints",), keypoint_sigmas=[0.01] * 5).kinds["keypoints"]["AP"]
    assert present(loose) > present(strict) + 0.2


def test_objects_without_keypoints_are_not_counted() -> None:
    truth, results = truth_and_results(5)
    expected = evaluate(truth, results, ("keypoints",), keypoint_sigmas=SIGMAS)
    bare = [
        {k: v for k, v in one.items() if one["num_keypoints"] or k not in ("keypoints", "num_keypoints")}
        for one in truth["annotations"]
    ]
    assert any("keypoints" not in one for one in bare)
    found = evaluate(truth | {"annotations": bare}, results, ("keypoints",), keypoint_sigmas=SIGMAS)
    assert found.kinds == expected.kinds


def test_boxes_and_keypoints_share_one_table() -> None:
    truth, results = truth_and_results(17)
    table = metrics_table(evaluate(truth, results, ("bbox", "keypoints"), keypoint_sigmas=COCO_SIGMAS))
    assert "keypoints" in table
    assert "box" in table


def test_ground_truth_without_keypoints_is_refused() -> None:
    truth, results = truth_and_results(17)
    for annotation in truth["annotations"]:
        del annotation["keypoints"]
    with pytest.raises(ValueError, match=r"has no keypoints in any annotation; use the person_keypoints file"):
        evaluate(truth, results, ("keypoints",))


def test_other_numbers_of_keypoints_are_refused() -> None:
    truth, results = truth_and_results(5)
    with pytest.raises(ValueError, match=r"objects with 5 keypoints, but keypoint_sigmas are those of COCO for 17"):
        evaluate(truth, results, ("keypoints",))
    with pytest.raises(ValueError, match=r"objects with 5 keypoints, but keypoint_sigmas are 4; give one sigma per"):
        evaluate(truth, results, ("keypoints",), keypoint_sigmas=SIGMAS[:4])
    _, others = truth_and_results(17)
    with pytest.raises(ValueError, match=r"a result \(image 1\) has 17 keypoints, but objects in .* have 5"):
        evaluate(truth, others, ("keypoints",), keypoint_sigmas=SIGMAS)
    truth["annotations"][0]["keypoints"] = [1.0, 1.0, 2] * 4
    with pytest.raises(ValueError, match=r"has objects with 4, 5 keypoints; expected one number"):
        evaluate(truth, results, ("keypoints",), keypoint_sigmas=SIGMAS)
