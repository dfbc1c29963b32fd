"""Comparison of two sets of results: values, and the bootstrap against one that is written out here."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from rcnn.data.checks.tables import MetricName
from rcnn.metrics import voc
from rcnn.metrics.coco import evaluate
from rcnn.metrics.comparison import compare_results
from tests.unit.random_truth import random_results, random_truth

Entry = dict[str, Any]


def drawn(entries: list[Entry], images: list[int]) -> list[Entry]:
    """The entries of images that were drawn with replacement; each draw is an image of its own."""
    of_image = {image: [entry for entry in entries if entry["image_id"] == image] for image in set(images)}
    return [{**entry, "image_id": place} for place, image in enumerate(images) for entry in of_image[image]]


def bootstrap_of_ap50(truth: Entry, a: list[Entry], b: list[Entry], samples: int) -> list[float]:
    """AP50 of B minus that of A in each sample."""
    random = np.random.default_rng(0)
    differences = list[float]()
    for _ in range(samples):
        images = random.choice([image["id"] for image in truth["images"]], len(truth["images"])).tolist()
        annotations = [{**entry, "id": i + 1} for i, entry in enumerate(drawn(truth["annotations"], images))]
        chosen = [{"id": place, "height": 240, "width": 320} for place in range(len(images))]
        sample = {"images": chosen, "annotations": annotations, "categories": truth["categories"]}
        values = [evaluate(sample, drawn(r, images), ("bbox",)).kinds["bbox"]["AP50"] for r in (a, b)]
        differences.append((values[1] or 0.0) - (values[0] or 0.0))
    return differences


def test_values_and_intervals() -> None:
    truth = random_truth(0, images=30)
    a, b = random_results(truth, 1), random_results(truth, 2, extra=2)
    found = compare_results("coco", truth, a, b, ("bbox", "segm"), samples=300)
    assert (found.images, found.samples) == (30, 300)
    for kind in ("bbox", "segm"):
        one, other = evaluate(truth, a, (kind,)), evaluate(truth, b, (kind,))
        for name, value in one.kinds[kind].items():
            difference = found.kinds[kind][name]
            assert difference.a == pytest.approx(value)
            assert difference.b == pytest.approx(other.kinds[kind][name])
            assert difference.difference == pytest.approx((other.kinds[kind][name] or 0) - (value or 0))
        for name, difference in found.per_class[kind].items():
            assert difference.a == pytest.approx(one.per_class[name][kind]["AP"])
            assert difference.b == pytest.approx(other.per_class[name][kind]["AP"])
    ap50 = found.kinds["bbox"]["AP50"]
    lower, upper = np.percentile(bootstrap_of_ap50(truth, a, b, 50), [2.5, 97.5]).tolist()
    assert ap50.lower is not None
    assert ap50.upper is not None
    assert ap50.difference is not None
    assert ap50.lower < ap50.difference < ap50.upper
    assert ap50.upper - ap50.lower == pytest.approx(upper - lower, rel=0.5)
    assert ap50.lower == pytest.approx(lower, abs=0.3 * (upper - lower))
    assert compare_results("coco", truth, a, b, ("bbox", "segm"), samples=300) == found, "the same seed"


def test_what_evaluate_refuses_is_refused_here_too() -> None:
    truth = random_truth(0, images=2)
    results = random_results(truth, 1)
    with pytest.raises(ValueError, match="has no neg_category_ids, which LVIS' metric needs"):
        compare_results("lvis", truth, results, results, ("bbox",), samples=0)
    truth = deepcopy(truth)
    for annotation in truth["annotations"]:
        annotation["keypoints"] = [1, 2, 2] * 17
    results = [{**result, "keypoints": [1, 2, 1] * 5} for result in results]
    with pytest.raises(ValueError, match="has 5 keypoints, but objects in the ground truth have 17"):
        compare_results("coco", truth, results, results, ("keypoints",), samples=0)


def test_the_same_results_do_not_differ() -> None:
    truth = random_truth(1)
    results = random_results(truth, 3)
    found = compare_results("coco", truth, results, deepcopy(results), ("bbox",), samples=20)
    for difference in found.kinds["bbox"].values():
        assert (difference.difference, difference.lower, difference.upper) == (0.0, 0.0, 0.0)
    lines = str(found).splitlines()
    assert lines[0].split() == ["box", "A", "B", "B", "-", "A", "95%", "interval", "B", "better"]
    assert lines[1].split()[-4:] == ["+0.000", "to", "+0.000", "-"], "not 0%: neither is better"
    assert any(line.startswith("cup") for line in lines)
    worse = compare_results("coco", truth, results, [], ("bbox",), samples=20)
    assert str(worse).splitlines()[1].split()[-1] == "0%"
    without = compare_results("coco", truth, results, results, ("bbox",), samples=0)
    assert without.kinds["bbox"]["AP"].lower is None
    assert "interval" not in str(without)


@pytest.mark.parametrize(("kind", "metric"), [("bbox", "voc2007"), ("segm", "voc2012")])
def test_vocs_metrics_and_their_bootstrap(kind: str, metric: MetricName) -> None:
    """The bootstrap weights images; here, it is written out with copies of the images that are drawn several times."""
    truth = random_truth(0, images=12)
    truth["annotations"][0]["difficult"] = 1
    sides = random_results(truth, 1), random_results(truth, 2, extra=2)
    for place, result in enumerate(entry for side in sides for entry in side):
        result["score"] += 1e-6 * place  # no ties, because the order of equal scores depends on the order of the images
    found = compare_results(metric, truth, *sides, (kind,), samples=8, seed=3)
    year: voc.Year = 2007 if metric == "voc2007" else 2012
    whole = [voc.evaluate(truth, results, (kind,), year=year) for results in sides]
    for name, difference in found.kinds[kind].items():
        assert (difference.a, difference.b) == tuple(one.kinds[kind][name] for one in whole)
    for name, difference in found.per_class[kind].items():
        assert (difference.a, difference.b) == tuple(one.per_class[name][kind]["AP"] for one in whole)
    random, ids = np.random.default_rng(3), sorted(image["id"] for image in truth["images"])
    differences = list[float]()
    for _ in range(8):
        images = [ids[place] for place in random.integers(len(ids), size=len(ids))]
        annotations = [{**entry, "id": i + 1} for i, entry in enumerate(drawn(truth["annotations"], images))]
        chosen = [{"id": place, "height": 240, "width": 320} for place in range(len(images))]
        sample = {"images": chosen, "annotations": annotations, "categories": truth["categories"]}
        values = [voc.evaluate(sample, drawn(r, images), (kind,), year=year).kinds[kind]["AP"] for r in sides]
        differences.append((values[1] or 0.0) - (values[0] or 0.0))
    ap = found.kinds[kind]["AP"]
    assert [ap.lower, ap.upper] == pytest.approx(np.percentile(differences, [2.5, 97.5]).tolist())
    assert ap.better == pytest.approx(np.mean([one > 0 for one in differences]))
    assert ap == found.kinds[kind]["AP50"]
