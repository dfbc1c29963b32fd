"""LVIS' metrics against slow code written from the rules of Gupta et al. (2019) and of lvis-api."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from rcnn.metrics.choice import measure, names_of
from rcnn.metrics.lvis import best_of_images, evaluate
from tests.unit.random_truth import HEIGHT, WIDTH, random_results, random_truth

Entry = dict[str, Any]
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def lvis_truth(seed: int) -> Entry:
    """Random ground truth without crowds; every image is annotated for some classes only."""
    truth, random = random_truth(seed), np.random.default_rng(seed)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    for number, category in enumerate(truth["categories"]):
        category["frequency"] = "rcff"[number]
    for image in truth["images"]:
        there = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        absent = [c["id"] for c in truth["categories"] if c["id"] not in there]
        image["neg_category_ids"] = [one for one in absent if random.random() < 0.5]
        image["not_exhaustive_category_ids"] = [one for one in sorted(there) if random.random() < 0.4]
    return truth


def slow(truth: Entry, results: list[Entry], kind: str, limit: int) -> dict[str, dict[str, Any]]:
    """{"AP": {category: value}, "APs": .., "AP50": .., "AR": ..}: precision or recall, None where undefined."""
    kept = [result for image in truth["images"] for result in best(results, image["id"], limit)]
    numbers: dict[str, dict[str, Any]] = {}
    for letter, (low, high) in AREAS.items():
        for category in (c["id"] for c in truth["categories"]):
            precisions, recalls = list[float](), list[float]()
            for threshold in np.linspace(0.5, 0.95, 10):
                marks: list[tuple[float, bool, bool]] = []  # score, right, counted
                positives = 0
                for image in truth["images"]:
                    objects = [a for a in truth["annotations"]
                               if (a["image_id"], a["category_id"]) == (image["id"], category)]  # fmt: skip
                    if not objects and category not in image["neg_category_ids"]:
                        continue  # nobody looked for this class in this image
                    found = [r for r in kept if (r["image_id"], r["category_id"]) == (image["id"], category)]
                    ignored = [not low <= a["area"] <= high for a in objects]
                    positives += ignored.count(False)
                    marks += matched(found, objects, ignored, image, threshold, kind, (low, high))
                if positives == 0:
                    continue
                marks.sort(key=lambda mark: -mark[0])
                right = np.cumsum([right for _, right, counted in marks if counted])
                wrong = np.cumsum([not right for _, right, counted in marks if counted])
                recall, precision = right / positives, right / np.maximum(right + wrong, 1)
                precisions.append(
                    np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]).item()
                )
                recalls.append(float(recall[-1]) if len(recall) else 0.0)
            for name, values in ((f"AP{letter}", precisions), (f"AR{letter}", recalls)):
                numbers.setdefault(name, {})[category] = np.mean(values) if values else None
            if not letter:
                for name, place in (("AP50", 0), ("AP75", 5)):
                    numbers.setdefault(name, {})[category] = precisions[place] if precisions else None
    return numbers


def best(results: list[Entry], image_id: int, limit: int) -> list[Entry]:
    own = [result for result in results if result["image_id"] == image_id]
    return sorted(own, key=lambda result: -result["score"])[:limit]


def matched(
    found: list[Entry], objects: list[Entry], ignored: list[bool], image: Entry, threshold: float, kind: str, area: Any
) -> list[tuple[float, bool, bool]]:
    """Score, right and counted of each detection of a class in an image."""
    category = found[0]["category_id"] if found else -1
    overlaps = np.zeros((len(found), 0))
    if found and objects:
        overlaps = rle.iou([shape(r, kind) for r in found], [shape(a, kind) for a in objects], [0] * len(objects))
    taken: set[int] = set()
    marks: list[tuple[float, bool, bool]] = []
    for result, row in zip(found, overlaps, strict=True):
        chosen = -1
        for ignore in (False, True):  # an ignored object only if no other fits
            places = [i for i in range(len(objects)) if i not in taken and ignored[i] == ignore and row[i] >= threshold]
            if places and chosen < 0:
                chosen = max(places, key=lambda i: (row[i], i))
        if chosen >= 0:
            taken.add(chosen)
            marks.append((result["score"], True, not ignored[chosen]))
        else:
            size = size_of(result, kind)
            counted = area[0] <= size <= area[1] and category not in image["not_exhaustive_category_ids"]
            marks.append((result["score"], False, counted))
    return marks


def shape(entry: Entry, kind: str) -> Any:
    """The box, or COCO's compressed run lengths."""
    if kind == "bbox":
        return entry["bbox"]
    outline = entry["segmentation"]
    if isinstance(outline, list):
        return rle.merge(rle.frPyObjects(outline, HEIGHT, WIDTH))
    return rle.frPyObjects(outline, HEIGHT, WIDTH) if isinstance(outline["counts"], list) else outline


def size_of(result: Entry, kind: str) -> float:
    if kind == "bbox":
        return float(result["bbox"][2] * result["bbox"][3])
    return float(rle.area(shape(result, kind)))


def mean(values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    return np.mean(known) if known else None


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(("seed", "limit"), [(0, 300), (1, 7)])
def test_equals_slow_code(kind: str, seed: int, limit: int) -> None:
    truth = lvis_truth(seed)
    random = np.random.default_rng(seed)
    results = [{**r, "score": float(random.random())} for r in random_results(truth, seed + 9)]
    expected = slow(truth, results, kind, limit)
    metrics = evaluate(truth, results, (kind,), max_detections=None if limit == 300 else limit)
    ours = metrics.kinds[kind]
    assert tuple(ours) == (names_of("lvis", kind) if limit == 300 else tuple(ours))
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert ours[name] == pytest.approx(mean(list(expected[name].values())), abs=1e-9), name
    for name, letter in ((f"AR{limit}", ""), ("ARs", "s"), ("ARm", "m"), ("ARl", "l")):
        assert ours[name] == pytest.approx(mean(list(expected[f"AR{letter}"].values())), abs=1e-9), name
    for frequency in "rcf":
        own = [expected["AP"][c["id"]] for c in truth["categories"] if c["frequency"] == frequency]
        assert ours[f"AP{frequency}"] == pytest.approx(mean(own), abs=1e-9), frequency
    assert 0.05 < (ours["AP"] or 0) < 0.95
    for category in truth["categories"]:
        for name, value in metrics.per_class[category["name"]][kind].items():
            assert value == pytest.approx(expected[name][category["id"]], abs=1e-9), name


def test_the_best_of_an_image_are_of_all_classes() -> None:
    results = [
        {"image_id": i % 2, "category_id": i % 3, "score": s} for i, s in enumerate([0.1, 0.5, 0.9, 0.5, 0.3, 0.4])
    ]
    assert [result["score"] for result in best_of_images(results, 2)] == [0.5, 0.9, 0.5, 0.3]


def test_ground_truth_without_the_fields_of_lvis_is_refused() -> None:
    truth = random_truth(0)
    with pytest.raises(ValueError, match=r"image 1 has no neg_category_ids, .* evaluate with metric=coco \(--metric\)"):
        evaluate(truth, [], ("bbox",))
    truth = lvis_truth(0)
    del truth["categories"][1]["frequency"]
    with pytest.raises(ValueError, match=r"category \d+ has frequency None, which LVIS' APr, .* expected r, c or f"):
        evaluate(truth, [], ("bbox",))
    del truth["categories"][3]["frequency"]  # without objects
    truth["categories"][1]["frequency"] = "c"
    assert evaluate(truth, [], ("bbox",)).kinds["bbox"]["APc"] == 0


def test_ground_truth_is_checked_before_there_are_results() -> None:
    with pytest.raises(ValueError, match="image 1 has no neg_category_ids"):
        measure("lvis", random_truth(0), ("bbox",))
    truth, results = lvis_truth(0), random_results(lvis_truth(0), 1)
    measurement = measure("lvis", truth, ("bbox",))
    measurement.add([image["id"] for image in truth["images"]], results)
    assert measurement.metrics() == evaluate(truth, results, ("bbox",))
    truth["annotations"][0]["bbox"] = [1, 2, -3, 4]
    for metric in ("lvis", "voc2012"):
        with pytest.raises(ValueError, match="annotation 1 has bbox"):
            measure(metric, truth, ("bbox",))


@pytest.mark.parametrize("limit", [0, -2])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"max_detections={limit} .*; expected 1 or more"):
        evaluate(lvis_truth(0), [], ("bbox",), max_detections=limit)


def test_an_object_without_outline_is_ignored_in_masks() -> None:
    """Neither required nor counted against a detection, as in COCO's metric here."""
    whole = [[0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]]
    image = {"height": 100, "width": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    one = {"category_id": 1, "bbox": [0.0, 0.0, 20.0, 20.0], "area": 400.0, "iscrowd": 0}
    truth: Entry = {
        "images": [image | {"id": 1}, image | {"id": 2}],
        "categories": [{"id": 1, "name": "square", "frequency": "r"}],
        "annotations": [one | {"id": 1, "image_id": 1, "segmentation": whole}, one | {"id": 2, "image_id": 2}],
    }
    found = {"category_id": 1, "bbox": one["bbox"], "segmentation": whole}
    results = [found | {"image_id": 2, "score": 0.9}, found | {"image_id": 1, "score": 0.5}]
    metrics = evaluate(truth, results)
    assert metrics.kinds["segm"]["AP"] == pytest.approx(1)
    assert metrics.kinds["segm"]["APr"] == pytest.approx(1)
    assert metrics.kinds["segm"]["APf"] is None
    assert metrics.kinds["bbox"]["AR300"] == pytest.approx(1)
    assert evaluate(truth, results[1:], ("bbox",)).kinds["bbox"]["AR300"] == pytest.approx(0.5)
