"""COCO's metrics against pycocotools, COCO's own code, and against values computed by hand."""

from __future__ import annotations

import contextlib
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.metrics.coco import METRICS, CocoEvaluation, evaluate
from rcnn.metrics.inputs import check_truth
from rcnn.metrics.values import Metrics
from tests.unit.random_truth import random_results, random_truth

Entry = dict[str, Any]


def reference(truth: Entry, results: list[Entry], kind: str) -> COCOeval:
    """pycocotools' evaluation, summarised."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = deepcopy(truth)
        coco.createIndex()
        field = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
        found = coco.loadRes([{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results])
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(metrics: Metrics, expected: COCOeval, kind: str) -> None:
    ours = [-1 if value is None else value for value in metrics.kinds[kind].values()]
    np.testing.assert_allclose(ours, expected.stats, rtol=0, atol=1e-12)
    names = {category["id"]: category["name"] for category in expected.cocoGt.dataset["categories"]}
    for column, category_id in enumerate(expected.params.catIds):
        precision, recall = expected.eval["precision"][:, :, column, :, -1], expected.eval["recall"][:, column, :, -1]
        by_name = {"AP": precision[..., 0], "AP50": precision[0, :, 0], "AP75": precision[5, :, 0], "AR": recall[:, 0]}
        by_name |= {f"AP{label[0]}": precision[..., i] for i, label in enumerate(expected.params.areaRngLbl) if i}
        assert set(metrics.per_class[names[category_id]][kind]) == set(by_name)
        for name, values in by_name.items():
            wanted = values[values > -1].mean() if (values > -1).any() else None
            assert metrics.per_class[names[category_id]][kind][name] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_random_detections(kind: str, seed: int) -> None:
    truth = random_truth(seed)
    results = random_results(truth, seed + 100)
    assert any(a["iscrowd"] for a in truth["annotations"])
    assert {a["image_id"] for a in truth["annotations"]} < {image["id"] for image in truth["images"]}
    expected = reference(truth, results, kind)
    assert 0.02 < expected.stats[0] < 0.9
    assert all(expected.stats[3:6] > 0), "the random objects are of every size"
    assert_equal(evaluate(truth, results, (kind,)), expected, kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_only_the_best_hundred_detections_per_image_count(kind: str) -> None:
    truth = random_truth(5, images=4, objects=20)
    results = random_results(truth, 6, extra=450)  # of four classes: more than 100 of each
    expected = reference(truth, results, kind)
    assert_equal(evaluate(truth, results, (kind,)), expected, kind)
    firsts = sorted(results, key=lambda result: -result["score"])[:400]
    assert expected.stats[8] != pytest.approx(reference(truth, firsts, kind).stats[8], abs=1e-6)


def test_one_set_of_results_may_carry_boxes_and_masks() -> None:
    """The size of a detection is its mask's for "segm", its box's for "bbox", as when COCO reads two files."""
    truth = random_truth(7)
    results = random_results(truth, 8)
    metrics = evaluate(truth, results)
    for kind in ("bbox", "segm"):
        assert_equal(metrics, reference(truth, results, kind), kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_results_may_be_added_image_by_image(kind: str) -> None:
    """In any order, some images together, some never: as if the results of the others were given at once."""
    truth = random_truth(9)
    results = random_results(truth, 10)
    for result in results:
        result["score"] = round(result["score"], 1)  # many are equal: then the order of the images decides
    ids = [image["id"] for image in truth["images"]]
    groups = [ids[12:9:-1], *([image_id] for image_id in (*ids[16:], *ids[:10]))]
    results = [result for result in results if any(result["image_id"] in group for group in groups)]
    evaluation = CocoEvaluation(check_truth(truth, (kind,), None), (kind,))
    for group in groups:
        evaluation.add(group, [result for result in results if result["image_id"] in group])
    metrics = evaluation.metrics()
    assert_equal(metrics, reference(truth, results, kind), kind)
    assert metrics == evaluate(truth, results, (kind,))


def test_damage_among_results_that_are_added_is_named() -> None:
    evaluation = CocoEvaluation(check_truth(small_truth(square(1, 20)), ("bbox",), None), ("bbox",))
    evaluation.add([1], [found(1, 20, 0.5), found(1, 20, 0.5) | {"bbox": [1, 2, float("nan"), 4]}])
    with pytest.raises(ValueError, match=r"result 1 .image 1. has bbox \[1, 2, nan, 4\]"):
        evaluation.metrics()


def test_masks_may_be_polygons() -> None:
    """As if they were run lengths, which pycocotools expects."""
    truth = random_truth(11)
    results = random_results(truth, 12)
    polygons = deepcopy(results)
    for result, polygon in zip(results, polygons, strict=True):
        x, y, width, height = result["bbox"]
        polygon["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        size = [truth["images"][0][side] for side in ("height", "width")]
        encoded = coco_mask.merge(coco_mask.frPyObjects(polygon["segmentation"], *size))
        result["segmentation"] = {"size": size, "counts": encoded["counts"].decode()}
    expected = reference(truth, results, "segm")
    assert expected.stats[0] > 0.02
    polygons[0] = results[0]
    assert_equal(evaluate(truth, polygons, ("segm",)), expected, "segm")


def test_keypoints_equal_pycocotools() -> None:
    random = np.random.default_rng(0)
    truth = random_truth(9)
    truth["categories"] = [{"id": 1, "name": "person"}]
    results = []
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        points = np.stack(
            [random.uniform(x, x + width, 17), random.uniform(y, y + height, 17), random.integers(0, 3, 17)]
        )
        annotation |= {"category_id": 1, "keypoints": points.T.reshape(-1).tolist(), "iscrowd": 0}
        annotation["num_keypoints"] = int((points[2] > 0).sum())
        moved = points + np.concatenate([random.normal(0, 0.06, (2, 17)) * [[width], [height]], np.zeros((1, 17))])
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": 1,
                "score": float(random.random()),
                "keypoints": moved.T.reshape(-1).tolist(),
            }
        )
    expected = reference(truth, results, "keypoints")
    assert 0.02 < expected.stats[0] < 0.98
    assert_equal(evaluate(truth, results, ("keypoints",)), expected, "keypoints")


def test_annotation_ids_do_not_matter() -> None:
    """COCO's own code treats annotation id 0 as no match; ours does not."""
    truth = random_truth(10)
    results = random_results(truth, 11)
    shifted = deepcopy(truth)
    for annotation in shifted["annotations"]:
        annotation["id"] -= 1
    assert shifted["annotations"][0]["id"] == 0
    assert evaluate(shifted, results).kinds == evaluate(truth, results).kinds


def test_images_with_text_for_an_id_are_evaluated_too() -> None:
    truth = random_truth(12)
    results = random_results(truth, 13)
    named = deepcopy(truth)
    for entry in [*named["images"], *named["annotations"]]:
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"photo-{entry[key]:03}"
    renamed = [{**result, "image_id": f"photo-{result['image_id']:03}"} for result in results]
    assert evaluate(named, renamed).kinds == evaluate(truth, results).kinds


def square(image_id: int, side: float, **more: Any) -> Entry:
    """A true or found square at the origin of an image of 100 x 100."""
    box = {"bbox": [0.0, 0.0, side, side], "segmentation": [[0.0, 0.0, side, 0.0, side, side, 0.0, side]]}
    return {"id": image_id, "image_id": image_id, "category_id": 1, "area": side * side, "iscrowd": 0, **box, **more}


def small_truth(*annotations: Entry, images: int = 2) -> Entry:
    listed = [{"id": i, "height": 100, "width": 100, "file_name": f"{i}.jpg"} for i in range(1, images + 1)]
    return {"images": listed, "categories": [{"id": 1, "name": "square"}], "annotations": list(annotations)}


def found(image_id: int, side: float, score: float) -> Entry:
    return {k: v for k, v in square(image_id, side, score=score).items() if k not in ("id", "area", "iscrowd")}


def test_a_case_computed_by_hand() -> None:
    """Two squares of side 20; one found whole (.9), one at IoU 324/400 = .81 (.8), a wrong one before both (.95)."""
    truth = small_truth(square(1, 20), square(2, 20), images=3)
    results = [found(1, 20, 0.9), found(2, 18, 0.8), found(3, 20, 0.95)]
    metrics = evaluate(truth, results, ("bbox",))
    bbox = metrics.kinds["bbox"]
    # IoU .50 .. .80: precisions 0, 1/2, 2/3 at recalls 0, 1/2, 1, so 2/3 at every recall;
    # above: 1/2 up to recall .5, which is 51 of the 101 places.
    assert bbox["AP50"] == pytest.approx(2 / 3)
    assert bbox["AP75"] == pytest.approx(2 / 3)
    assert bbox["AP"] == pytest.approx((7 * 2 / 3 + 3 * 0.5 * 51 / 101) / 10)
    assert bbox["AR100"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert bbox["APs"] == bbox["AP"]
    assert bbox["APl"] is None
    assert (metrics.images, metrics.detections, metrics.objects) == (3, 3, {"square": 2})


def test_images_without_objects_count() -> None:
    truth = small_truth(square(1, 20), images=2)
    right, wrong = found(1, 20, 0.5), found(2, 20, 0.9)
    assert evaluate(truth, [right, wrong], ("bbox",)).kinds["bbox"]["AP"] == pytest.approx(0.5)
    assert evaluate(truth, [right], ("bbox",)).kinds["bbox"]["AP"] == pytest.approx(1)
    assert evaluate(truth, [right, wrong], ("bbox",), image_ids=[1]).kinds["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_no_detections_give_zero(kind: str) -> None:
    points = {"keypoints": [1.0, 1.0, 2.0] * 17, "num_keypoints": 17}
    metrics = evaluate(small_truth(square(1, 50, **points)), [], (kind,))
    measured = {name: value for name, value in metrics.kinds[kind].items() if not name.endswith(("s", "l"))}
    assert set(measured.values()) == {0.0}
    assert metrics.per_class["square"][kind]["AP"] == metrics.per_class["square"][kind]["AP50"] == 0.0


@pytest.mark.parametrize("results", [[], [found(1, 20, 0.5)]])
def test_ground_truth_without_objects_gives_no_metrics(results: list[Entry]) -> None:
    metrics = evaluate(small_truth(), results, ("bbox", "segm"))
    assert set(metrics.kinds["bbox"].values()) | set(metrics.kinds["segm"].values()) == {None}


def test_an_object_without_an_outline_is_ignored_for_masks() -> None:
    truth = small_truth(square(1, 20), square(2, 30, segmentation=[]))
    metrics = evaluate(truth, [found(1, 20, 0.5), found(2, 30, 0.9)])
    assert metrics.kinds["segm"]["AP"] == pytest.approx(1)
    assert metrics.kinds["bbox"]["AP"] == pytest.approx(1)
    assert evaluate(truth, [found(1, 20, 0.5)]).kinds["bbox"]["AP"] == pytest.approx(51 / 101)


@pytest.mark.parametrize(("iscrowd", "objects"), [("0", 2), (None, 2), ("false", 2), ("1", 1), (True, 1)])
def test_iscrowd_is_read_as_in_a_data_set(iscrowd: object, objects: int) -> None:
    truth = small_truth(square(1, 20), square(2, 30, iscrowd=iscrowd))
    metrics = evaluate(truth, [found(1, 20, 0.5)], ("bbox",))
    assert sum(metrics.objects.values()) == objects
    assert metrics.kinds["bbox"]["AP"] == pytest.approx(1 if objects == 1 else 51 / 101)


def test_metrics_json_has_the_form_that_scripts_read(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(small_truth(square(1, 20))))
    written = json.loads(json.dumps(evaluate(truth, [found(1, 20, 0.5)]).to_dict()))
    assert list(written) == ["bbox", "segm", "per_class", "counts", "max_detections", "metric"]
    assert list(written["bbox"]) == list(METRICS["bbox"])
    assert written["segm"]["AP50"] == pytest.approx(1)
    assert written["bbox"]["APm"] is None
    assert written["per_class"]["square"]["segm"]["AP"] == pytest.approx(1)
    assert written["counts"] == {"images": 2, "detections": 1, "objects": {"square": 1}}
    assert written["max_detections"] == {"bbox": 100, "segm": 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "image_id 77, which the ground truth does not list"),
        ({"category_id": 5}, "category_id 5, which the ground truth does not list"),
        ({"score": float("nan")}, "result 0 .image 1. has score nan"),
        ({"bbox": None}, "result 0 .image 1. has no 'bbox'"),
        (
            {"segmentation": {"size": [50, 100], "counts": "PPb01"}},
            r"mask of \(height, width\) \(50, 100\).*\(100, 100\)",
        ),
    ],
)
def test_wrong_results_are_named(change: Entry, message: str) -> None:
    result = {k: v for k, v in {**found(1, 20, 0.5), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        evaluate(small_truth(square(1, 20)), [result])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (3, r"result 0 is 3; expected an object in COCO's format"),
        ({"image_id": None}, "has image_id None; expected an integer"),
        ({"category_id": True}, "has category_id True; expected an integer"),
        ({"score": "high"}, "has score 'high'; expected a finite number"),
        ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]; expected \[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("inf")]}, "has bbox"),
        ({"keypoints": [1, 2]}, "has keypoints .*; expected"),
        ({"segmentation": []}, None),
        ({"segmentation": {"counts": "PPb01"}}, "has segmentation .*; expected RLE"),
        ({"segmentation": [[1, 2]]}, "has segmentation .*; expected RLE"),
        ({"segmentation": "PPb01"}, "has segmentation 'PPb01'; expected RLE"),
    ],
)
def test_results_of_a_wrong_form_are_named(change: Any, message: str | None) -> None:
    result = {**found(1, 20, 0.5), **change} if isinstance(change, dict) else change
    if message is None:
        evaluate(small_truth(square(1, 20)), [result], ("bbox",))
        return
    with pytest.raises(ValueError, match=message):
        evaluate(small_truth(square(1, 20)), [result], ("bbox",))


def test_more_detections_count_if_asked_for() -> None:
    """150 objects in an image, all found: COCO's limit of 100 drops a third of them."""
    truth = small_truth(*({**square(1, 20), "id": i, "bbox": [30 * i, 0, 20, 20]} for i in range(1, 151)))
    results = [{"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [30 * i, 0, 20, 20]} for i in range(1, 151)]
    limited = evaluate(truth, results, ("bbox",)).kinds["bbox"]
    assert limited["AP"] == pytest.approx(67 / 101)  # precision 1 up to recall 2/3
    more = evaluate(truth, results, ("bbox",), max_detections=150).kinds["bbox"]
    assert more["AP"] == more["AP50"] == more["AR150"] == 1
    assert more["AR10"] == pytest.approx(10 / 150)
    assert more["AR100"] == pytest.approx(100 / 150)
    assert list(more) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "AR150",
        "ARs",
        "ARm",
        "ARl",
    ]
    assert evaluate(truth, results, ("bbox",), max_detections=5).kinds["bbox"]["AR5"] == pytest.approx(5 / 150)
    with pytest.raises(ValueError, match=r"max_detections=0 \(--max-detections\); expected 1 or more"):
        evaluate(truth, results, ("bbox",), max_detections=0)


def test_masks_cannot_be_evaluated_without_ground_truth_masks() -> None:
    with pytest.raises(ValueError, match=r"no outline in any annotation.*use kind bbox only"):
        evaluate(small_truth(square(1, 20, segmentation=None)), [found(1, 20, 0.5)])
    with pytest.raises(ValueError, match=r"kind 'box' is not known; expected bbox, segm, keypoints"):
        evaluate(small_truth(), [], ("box",))


def test_ground_truth_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json is not JSON.*expected a file in COCO's format"):
        evaluate(path, [])
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"truth\.json has no annotations, categories"):
        evaluate(path, [])


def test_a_result_is_named_by_its_row_in_the_file() -> None:
    truth = small_truth(square(1, 20), square(2, 20))
    bare = {key: value for key, value in found(2, 20, 0.5).items() if key != "bbox"}
    results = [found(1, 20, 0.5), bare]
    with pytest.raises(ValueError, match=r"result 1 \(image 2\) has no 'bbox'"):
        evaluate(truth, results, ("bbox",), image_ids=[2])
    results[1] = found(2, 20, 0.5) | {"segmentation": {"size": [100, 100], "counts": [9]}}
    with pytest.raises(ValueError, match=r"result 1 \(image 2\) has a mask with counts \[9\]"):
        evaluate(truth, results, ("segm",), image_ids=[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, r"the ground truth: annotation 1 has bbox None; expected \[x, y, width, height\]"),
        ({"bbox": [0, 0, -1, 5]}, "annotation 1 has bbox .*; expected .* 0 or more"),
        ({"image_id": 9}, "annotation 1 has image_id 9, which the file does not list"),
        ({"image_id": []}, r"annotation 1 has image_id \[\], which the file does not list"),
        ({"category_id": "1"}, "annotation 1 has category_id '1', which the file does not list"),
        ({"area": None}, "annotation 1 has area None; expected a finite number"),
        ({"keypoints": [1, 2]}, r"annotation 1 has keypoints \[1, 2\]; expected"),
    ],
)
def test_damaged_annotations_are_named(change: Entry, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(small_truth(square(1, 20) | change), [], ("bbox",))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "square"}, {"id": "2", "name": "kite"}], r"category 1 is \{'id': '2', .*with an id"),
        ([{"name": "square"}], "category 0 is .*; expected an object with an id"),
        ([{"id": 1}], "category 1 has no name"),
    ],
)
def test_damaged_categories_are_named(categories: list[Entry], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(small_truth(square(1, 20)) | {"categories": categories}, [], ("bbox",))


def test_proposals_have_no_classes() -> None:
    """A proposal of another category finds the object, as with useCats=0 of pycocotools."""
    truth = small_truth(square(1, 20), square(2, 20, category_id=2))
    truth["categories"] = [{"id": 1, "name": "square"}, {"id": 2, "name": "kite"}]
    results = [found(1, 20, 0.5) | {"category_id": 2}, found(2, 20, 0.5) | {"category_id": 1}]
    metrics = evaluate(truth, results, ("proposals",))
    assert metrics.kinds["proposals"]["AR100"] == 1
    assert metrics.per_class == {"square": {"proposals": {}}, "kite": {"proposals": {}}}
