"""Two sets of results on the same images: differences of the metrics, with bootstrap intervals.

hotcoco computes those of COCO's and LVIS' metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.checks.tables import MetricName
from rcnn.data.messages import KIND_TITLES, cut
from rcnn.metrics import coco_entries, lvis, voc
from rcnn.metrics.coco_entries import (
    require_same_keypoints,
    require_same_keypoints_in_results,
    results_of_kind,
)
from rcnn.metrics.inputs import Entry, EvaluationInputs, GroundTruth, Id, check_inputs
from rcnn.metrics.tables import aligned, number
from rcnn.metrics.values import Number
from rcnn.ops.coco_backend import COCO, COCOeval, compare

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric, or the AP of one class, of A and of B; fractions 0..1."""

    a: Number
    b: Number
    difference: Number  # B - A; None if one of them is None
    lower: Number = None  # end of the 95% interval of the difference; None: not computed
    upper: Number = None
    better: Number = None  # fraction of the bootstrap samples in which B is better

    @property
    def is_equal(self) -> bool:
        """Whether A and B have the same value, on all images and in all samples within the interval."""
        return self.difference == 0 and not self.lower and not self.upper and not self.better


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two sets of results, by kind ("bbox", "segm", "keypoints")."""

    kinds: dict[str, dict[str, Difference]]  # {"bbox": {"AP": .., "AP50": .., ...}}
    per_class: dict[str, dict[str, Difference]]  # {"bbox": {"person": AP}}
    images: int
    samples: int  # of the bootstrap; 0: no intervals
    split: str = ""  # of the data set
    failed: int = 0  # images that A or B could not be evaluated on: they count as images without detections
    warnings: tuple[str, ...] = ()  # about the images and the kinds

    def to_dict(self) -> dict[str, Any]:
        """The content of compare.json."""
        return asdict(self) | {"confidence": CONFIDENCE}

    def __str__(self) -> str:
        """The tables that `rcnn compare` prints."""
        return "\n\n".join(_table(self, kind) for kind in self.kinds)


def compare_results(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    a: Sequence[Entry],
    b: Sequence[Entry],
    kinds: Sequence[str],
    *,
    image_ids: Iterable[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare the results `a` and `b` (COCO results format) by COCO's, LVIS' or VOC's metrics.

    `samples`: number of bootstrap samples of the images, the same for both (0: no intervals). Kinds are "bbox", "segm"
    and "keypoints"; the other arguments, and the errors, as in `evaluate` of metrics.coco and metrics.lvis.
    """
    found: dict[str, dict[str, Difference]] = {}
    per_class: dict[str, dict[str, Difference]] = {}
    images = list(image_ids) if image_ids is not None else None
    count = 0
    for kind in kinds:
        if metric in ("voc2007", "voc2012"):
            inputs = [check_inputs(ground_truth, one, (kind,), images, tuple(voc.THRESHOLDS)) for one in (a, b)]
            found[kind], per_class[kind] = _compare_voc(metric, inputs[0], inputs[1], kind, samples, seed)
            count = len(inputs[0].images)
            continue
        sides = [_evaluated(metric, ground_truth, results, kind, images, keypoint_sigmas) for results in (a, b)]
        count = sides[0][1]
        measured = compare(sides[0][0], sides[1][0], samples, seed, CONFIDENCE)
        intervals = measured["ci"] or {}
        found[kind] = {
            name: _difference(measured["metrics_a"][name], measured["metrics_b"][name], intervals.get(name))
            for name in measured["metric_keys"]
        }
        names = sides[0][2]
        per_class[kind] = {
            names[one["cat_id"]]: _difference(one["ap_a"], one["ap_b"]) for one in measured["per_category"]
        }
    return Comparison(kinds=found, per_class=per_class, images=count, samples=samples)


def _evaluated(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kind: str,
    image_ids: Sequence[Id] | None,
    sigmas: Sequence[float] | None,
) -> tuple[COCOeval, int, dict[Id, str]]:
    """An evaluation that is not summarised yet, the number of images, and the names of the classes."""
    inputs = check_inputs(ground_truth, results, (kind,), image_ids, ("bbox", "segm", "keypoints"))
    is_lvis = metric == "lvis"
    if is_lvis:
        lvis.require_federated(inputs)
    if kind == "keypoints":
        require_same_keypoints(inputs, sigmas)
        require_same_keypoints_in_results(inputs, inputs.results)
    own = lvis.best_of_images(inputs.results, lvis.MAX_DETECTIONS) if is_lvis else inputs.results
    truth = COCO((lvis if is_lvis else coco_entries).ground_truth_of_kind(inputs, kind))
    evaluation = COCOeval(truth, truth.loadRes(results_of_kind(inputs, own, kind)), kind, lvis_style=is_lvis)
    if sigmas is not None and kind == "keypoints":
        evaluation.params.kpt_oks_sigmas = list(sigmas)
    evaluation.evaluate()
    return evaluation, len(inputs.images), inputs.names


def _compare_voc(
    metric: MetricName, a: EvaluationInputs, b: EvaluationInputs, kind: str, samples: int, seed: int
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """The differences of VOC's metrics, and of each class at IoU .50. A sample has the same images for both sides."""
    year: voc.Year = 2007 if metric == "voc2007" else 2012
    thresholds = voc.THRESHOLDS[kind]
    matches = [voc.matches_of(side, kind) for side in (a, b)]
    hits = {
        name: [[voc.hits_of(side[category], least) for category in a.names] for side in matches]
        for name, least in thresholds.items()
    }

    def means(name: str, weights: npt.NDArray[np.int64] | None = None) -> list[Number]:
        sides = hits[name]
        return [voc.mean_of_known([voc.average_precision(one, year, weights) for one in side]) for side in sides]

    drawn, random = dict[str, list[float]](), np.random.default_rng(seed)
    for _ in range(samples):
        weights = np.bincount(random.integers(len(a.images), size=len(a.images)), minlength=len(a.images))
        for name in thresholds:
            one, other = means(name, weights)
            if one is not None and other is not None:
                drawn.setdefault(name, []).append(other - one)
    intervals = {name: _interval(values) for name, values in drawn.items()}
    found = dict[str, Difference]()
    for name in voc.metric_names(kind):
        measured = "AP50" if name == "AP" else name
        one, other = means(measured)
        found[name] = _difference(_or_missing(one), _or_missing(other), intervals.get(measured))
    per_class = dict[str, Difference]()
    for place, name in enumerate(a.names.values()):
        one, other = (voc.average_precision(side[place], year) for side in hits["AP50"])
        per_class[name] = _difference(_or_missing(one), _or_missing(other))
    return found, per_class


def _interval(differences: Sequence[float]) -> dict[str, float]:
    """The middle part of the differences of the samples, and the fraction of those above 0."""
    outside = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(differences, [outside, 100 - outside]).tolist()
    return {"lower": lower, "upper": upper, "prob_positive": float(np.mean(np.asarray(differences) > 0))}


def _or_missing(value: Number) -> float:
    return -1.0 if value is None else value


def _difference(a: float, b: float, interval: dict[str, float] | None = None) -> Difference:
    """The difference of two values; -1 stands for a value that cannot be measured."""
    if a < 0 or b < 0:
        return Difference(a=None if a < 0 else a, b=None if b < 0 else b, difference=None)
    if interval is None:
        return Difference(a=a, b=b, difference=b - a)
    return Difference(
        a=a,
        b=b,
        difference=b - a,
        lower=interval["lower"],
        upper=interval["upper"],
        better=interval["prob_positive"],
    )


def _table(comparison: Comparison, kind: str) -> str:
    rows = [[KIND_TITLES[kind], "A", "B", "B - A", *(["95% interval", "B better"] if comparison.samples else [])]]
    for name, one in comparison.kinds[kind].items():
        rows.append([name, number(one.a), number(one.b), _signed(one.difference)])
        if comparison.samples:
            interval = "-" if one.lower is None else f"{_signed(one.lower)} to {_signed(one.upper)}"
            rows[-1] += [interval, "-" if one.better is None or one.is_equal else f"{one.better:.0%}"]
    classes = [["AP by class", "A", "B", "B - A"]]
    for name, one in comparison.per_class[kind].items():
        classes.append([cut(name, 60), number(one.a), number(one.b), _signed(one.difference)])
    return "\n".join([*aligned(rows, left=(0,)), "", *aligned(classes, left=(0,))])


def _signed(value: Number) -> str:
    return "-" if value is None else f"{value:+.3f}"
