"""Analysis of an evaluation: curves, confusions, errors by kind, calibration, thresholds, worst images.

Everything is measured at IoU .50 on one kind: masks if they are evaluated, else boxes. Objects that the metric ignores
(crowds, VOC's difficult objects) are also ignored here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.background import in_background
from rcnn.data.checks.tables import MetricName
from rcnn.metrics import coco, lvis
from rcnn.metrics.coco_entries import ground_truth_of_kind, results_of_kind
from rcnn.metrics.collection import garbage_stays
from rcnn.metrics.errors import ImageErrors, Shape, image_errors
from rcnn.metrics.inputs import Entry, EvaluationInputs, GroundTruth, Id, check_inputs, checked_inputs
from rcnn.metrics.thresholds import Thresholds, best_thresholds
from rcnn.ops.coco_backend import COCO, COCOeval

IOU = 0.5
DRAWN_SCORE = 0.5  # the score threshold if no detection is correct
SMALL, LARGE = 32**2, 96**2  # COCO's limits of areas, square pixels


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """The number of objects of one class that were detected as another, at the best score threshold."""

    truth: str  # class of the objects; empty: background (the detections match no object)
    predicted: str  # class of the detections; empty: background (the objects were missed)
    count: int


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The analysis of the detections of one kind ("bbox" or "segm")."""

    kind: str
    curves: dict[str, list[float | None]]  # "AP", "AP50", "AP75" -> mean precision at the recalls 0, .01, ... 1
    class_curves: dict[str, list[float | None]]  # class -> precision at IoU .50 at these recalls
    confusions: tuple[Confusion, ...]  # most frequent first
    tide: dict[str, Any]  # {"AP50": .., "delta": {"class": .., ...}, "counts": {...}}; delta: AP50 lost to each error
    # {"error": .., "bins": [{"from", "to", "score", "precision", "count"}, ..]}; None and [] with scores outside 0..1
    calibration: dict[str, Any]
    thresholds: Thresholds
    counts: dict[str, dict[str, int]]  # class -> images, objects, small, medium, large, detections (at the threshold)
    images: tuple[ImageErrors, ...]  # at the threshold; those with the most errors first
    keypoint_curves: dict[str, list[float | None]] | None = None  # as `curves`, by OKS; None: no keypoints

    @property
    def score(self) -> float:
        """The score threshold for the confusions, the counts and the errors of the images."""
        return DRAWN_SCORE if self.thresholds.overall is None else self.thresholds.overall.score

    def to_dict(self) -> dict[str, Any]:
        """The content of analysis.json."""
        return {
            "kind": self.kind,
            "iou": IOU,
            "score": self.score,
            "curves": {
                "overall": self.curves,
                "per_class": self.class_curves,
                **({} if self.keypoint_curves is None else {"keypoints": self.keypoint_curves}),
            },
            "confusions": [vars(confusion) for confusion in self.confusions],
            "tide": self.tide,
            "calibration": self.calibration,
            "thresholds": self.thresholds.to_dict(),
            "counts": self.counts,
            "images": [image.to_dict() for image in self.images],
        }


def analysed_kind(kinds: Iterable[str]) -> str:
    """The kind that is analysed: masks, else boxes; empty for proposals, which have no classes."""
    kinds = tuple(kinds)
    return "" if "proposals" in kinds else next((kind for kind in ("segm", "bbox") if kind in kinds), "")


@garbage_stays()
def analyse(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kind: str,
    image_ids: Iterable[Id] | None = None,
    max_detections: int | None = None,
    *,
    checked: bool = False,
) -> Analysis:
    """The analysis of `results` of one kind, "bbox" or "segm"; the other arguments as in `metrics.choice.evaluate`.

    The number of detections that count is that of `metric`: 100 per image and class (COCO), 300 per image (LVIS), or
    all (VOC). ValueError as for `metrics.choice.evaluate`; `checked`: this kind was evaluated before, without an error.
    """
    inputs = _inputs(ground_truth, results, kind, image_ids, checked=checked)
    inputs, truth, limit = _problem(metric, inputs, kind, max_detections)
    found = results_of_kind(inputs, inputs.results, kind)
    gold = COCO(truth)
    evaluation = COCOeval(gold, gold.loadRes(found), kind, lvis_style=metric == "lvis")
    curves = coco.curves_of(evaluation, [limit])
    matches = _Matches.of(evaluation, inputs, truth, kind)
    thresholds = matches.thresholds(inputs.names)
    score = DRAWN_SCORE if thresholds.overall is None else thresholds.overall.score
    confusions = in_background(matches.confusions, kind, truth, score)
    return Analysis(
        kind=kind,
        curves=_curves(curves, limit),
        class_curves={name: _precisions(curves, limit, 0.5, index) for index, name in enumerate(inputs.names.values())},
        tide=_tide(evaluation.tide_errors()),
        calibration=_calibration(evaluation, found),
        thresholds=thresholds,
        counts=matches.counts(score),
        images=matches.worst_first(score),
        confusions=confusions.result(),
    )


def keypoint_curves(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    image_ids: Iterable[Id] | None = None,
    sigmas: Sequence[float] | None = None,
    max_detections: int | None = None,
    *,
    checked: bool = False,
) -> dict[str, list[float | None]]:
    """The precision-recall curves of keypoints: "AP", "AP50", "AP75" -> mean precision at the recalls 0, .01, ... 1.

    `sigmas` as in `metrics.coco.evaluate`, `checked` as in `analyse`.
    """
    inputs = _inputs(ground_truth, results, "keypoints", image_ids, checked=checked)
    limit = max_detections or coco.MAX_KEYPOINT_DETECTIONS
    gold = COCO(ground_truth_of_kind(inputs, "keypoints"))
    evaluation = COCOeval(gold, gold.loadRes(results_of_kind(inputs, inputs.results, "keypoints")), "keypoints")
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = list(sigmas)
    return _curves(coco.curves_of(evaluation, [limit]), limit)


def find_thresholds(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kind: str,
    image_ids: Iterable[Id] | None = None,
) -> Thresholds:
    """Only the score thresholds of `analyse`, which is faster."""
    inputs = _inputs(ground_truth, results, kind, image_ids, checked=False)
    inputs, truth, limit = _problem(metric, inputs, kind, None)
    gold = COCO(truth)
    found = gold.loadRes(results_of_kind(inputs, inputs.results, kind))
    evaluation = COCOeval(gold, found, kind, lvis_style=metric == "lvis")
    coco.curves_of(evaluation, [limit])
    return _Matches.of(evaluation, inputs, truth, kind).thresholds(inputs.names)


def _inputs(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kind: str,
    image_ids: Iterable[Id] | None,
    *,
    checked: bool,
) -> EvaluationInputs:
    if checked:
        return checked_inputs(ground_truth, results, image_ids)
    return check_inputs(ground_truth, results, (kind,), image_ids, ("bbox", "segm", "keypoints"))


def _problem(
    metric: MetricName, inputs: EvaluationInputs, kind: str, max_detections: int | None
) -> tuple[EvaluationInputs, GroundTruth, int]:
    """The inputs with the results that count, the ground truth of one kind, and the limit of detections."""
    if metric == "lvis":
        limit = max_detections or lvis.MAX_DETECTIONS
        inputs = replace(inputs, results=lvis.best_of_images(inputs.results, limit))
        return inputs, lvis.ground_truth_of_kind(inputs, kind), limit
    limit = max_detections or coco.MAX_DETECTIONS
    if metric.startswith("voc"):
        ignored = [
            int(bool(a.get("difficult")) or crowd)
            for a, crowd in zip(inputs.data["annotations"], inputs.crowds, strict=True)
        ]
        inputs = replace(inputs, crowds=ignored)
        limit = max(Counter(result["image_id"] for result in inputs.results).values(), default=limit)
    return inputs, ground_truth_of_kind(inputs, kind), limit


@dataclass(frozen=True, kw_only=True)
class _Matches:
    """Detections and objects as hotcoco matched them, without ignored ones."""

    detections: dict[int, list[Shape]]  # by number of the image
    objects: dict[int, list[Shape]]
    found_by: dict[int, int]  # id of an object -> row of the detection that found it
    inputs: EvaluationInputs

    @classmethod
    def of(cls, evaluation: COCOeval, inputs: EvaluationInputs, truth: GroundTruth, kind: str) -> _Matches:
        """The matches of an evaluation, where the id of a detection is the row of its result + 1."""
        found = evaluation.image_diagnostics(iou_thr=IOU)
        sizes: dict[int, tuple[int, int] | None] = {
            image["id"]: None if kind == "bbox" else (image["height"], image["width"]) for image in truth["images"]
        }
        detections, objects = defaultdict[int, list[Shape]](list), defaultdict[int, list[Shape]](list)
        for number, status in sorted(found["dt_status"].items()):
            result = inputs.results[number - 1]
            image = inputs.image_numbers[result["image_id"]]
            detections[image].append(Shape(number=number - 1, entry=result, size=sizes[image], matched=status == "tp"))
        annotations = {annotation["id"]: annotation for annotation in truth["annotations"]}
        for number in sorted(found["gt_status"]):
            entry = annotations[number]
            objects[entry["image_id"]].append(Shape(number=number, entry=entry, size=sizes[entry["image_id"]]))
        return cls(
            detections=detections,
            objects=objects,
            found_by={gt: dt - 1 for gt, dt in found["gt_match"].items()},
            inputs=inputs,
        )

    def thresholds(self, names: Mapping[Id, str]) -> Thresholds:
        """The score thresholds with the best F1."""
        shapes = [shape for of_image in self.detections.values() for shape in of_image]
        labels = {category: label for label, category in enumerate(names)}
        objects = Counter(labels[shape.category] for of_image in self.objects.values() for shape in of_image)
        return best_thresholds(
            np.array([shape.entry["score"] for shape in shapes], dtype=np.float64),
            np.array([shape.matched for shape in shapes], dtype=bool),
            np.array([labels[shape.category] for shape in shapes], dtype=np.int64),
            objects,
            dict(enumerate(names.values())),
        )

    def confusions(self, kind: str, truth: GroundTruth, score: float) -> tuple[Confusion, ...]:
        """The confusions of the detections of `score` or more, matched regardless of their class.

        hotcoco's matrix does not know which detections are ignored, and its limit of detections is for all classes of
        an image together; so it gets only the objects and the detections that count, and no limit.
        """
        objects = [shape.entry for of_image in self.objects.values() for shape in of_image]
        kept = [s.entry for of_image in self.detections.values() for s in of_image if s.entry["score"] >= score]
        gold = COCO({**truth, "annotations": objects})
        evaluation = COCOeval(gold, gold.loadRes(results_of_kind(self.inputs, kept, kind)), kind)
        most = max(Counter(result["image_id"] for result in kept).values(), default=1)
        return _confusions(evaluation.confusion_matrix(IOU, most), self.inputs.names)

    def worst_first(self, score: float) -> tuple[ImageErrors, ...]:
        """The errors of every image, for the detections of `score` or more; images with the most errors first."""
        images: list[ImageErrors] = []
        for image_id, number in self.inputs.image_numbers.items():
            kept = [shape for shape in self.detections.get(number, ()) if shape.entry["score"] >= score]
            rows = {shape.number for shape in kept}
            objects = [
                Shape(number=one.number, entry=one.entry, size=one.size, matched=self.found_by.get(one.number) in rows)
                for one in self.objects.get(number, ())
            ]
            images.append(image_errors(image_id, kept, objects, self.inputs.names))
        return tuple(sorted(images, key=lambda image: (-len(image.errors), image.hits)))

    def counts(self, score: float) -> dict[str, dict[str, int]]:
        """For each class: images, objects by size, and detections of `score` or more."""
        counts = {category: Counter[str]() for category in self.inputs.names}
        for of_image in self.objects.values():
            for category in {shape.category for shape in of_image}:
                counts[category]["images"] += 1
            for shape in of_image:
                area = shape.entry["area"]
                counts[shape.category]["objects"] += 1
                counts[shape.category]["small" if area < SMALL else "medium" if area <= LARGE else "large"] += 1
        for of_image in self.detections.values():
            for shape in of_image:
                counts[shape.category]["detections"] += shape.entry["score"] >= score
        columns = ("images", "objects", "small", "medium", "large", "detections")
        return {name: {c: counts[category][c] for c in columns} for category, name in self.inputs.names.items()}


def _curves(curves: coco.Curves, limit: int) -> dict[str, list[float | None]]:
    return {name: _precisions(curves, limit, iou) for name, iou in (("AP", None), ("AP50", 0.5), ("AP75", 0.75))}


def _precisions(curves: coco.Curves, limit: int, iou: float | None, category: int | None = None) -> list[float | None]:
    """The precision at 101 recalls: mean over IoU thresholds and over classes with objects; None where undefined."""
    values = curves.precision[..., curves.areas.index("all"), curves.limits.index(limit)]  # (T, 101, K)
    values = values if iou is None else values[np.isclose(coco.THRESHOLDS, iou)]
    values = values if category is None else values[..., [category]]
    known = values > -1
    count = known.sum(axis=(0, 2))  # (101,)
    total = np.where(known, values, 0).sum(axis=(0, 2))
    return [round(float(t / n), 4) if n else None for t, n in zip(total, count, strict=True)]


def _confusions(found: Mapping[str, Any], names: Mapping[Id, str]) -> tuple[Confusion, ...]:
    titles = [*(names[category] for category in found["cat_ids"]), ""]  # the last row and column: background
    matrix = np.asarray(found["matrix"]).astype(np.int64)
    pairs = [
        Confusion(truth=titles[row], predicted=titles[column], count=int(matrix[row, column]))
        for row, column in np.argwhere(matrix).tolist()
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count))


_TIDE = {"Cls": "class", "Loc": "location", "Both": "both", "Dupe": "duplicate", "Bkg": "background", "Miss": "missed"}


def _tide(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "AP50": found["ap_base"],
        "delta": {name: found["delta_ap"][key] for key, name in _TIDE.items()},
        "counts": {name: found["counts"][key] for key, name in _TIDE.items()},
    }


def outside_0_to_1(results: Iterable[Entry]) -> int:
    """The number of results with scores that are no probabilities: AP can be measured, but no calibration."""
    return sum(not 0 <= result["score"] <= 1 for result in results)


def _calibration(evaluation: COCOeval, results: Sequence[Entry]) -> dict[str, Any]:
    if outside_0_to_1(results):
        return {"error": None, "largest_error": None, "bins": []}
    found = evaluation.calibration(iou_threshold=IOU)
    bins = [
        {
            "from": one["bin_lower"],
            "to": one["bin_upper"],
            "score": one["avg_confidence"],
            "precision": one["avg_accuracy"],
            "count": one["count"],
        }
        for one in found["bins"]
        if one["count"]
    ]
    return {"error": found["ece"], "largest_error": found["mce"], "bins": bins}
