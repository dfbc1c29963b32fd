"""PASCAL VOC's average precision (Everingham et al. 2010; VOCdevkit, VOCevaldet.m), of boxes and of masks.

The detections of a class in all images are sorted by score. A detection is a true positive if the object that it
overlaps most (of its class, in its image) has an IoU of at least the threshold, and no detection with a higher score
found that object; the others are false positives. A detection of a difficult object is ignored. AP is the mean
precision at 11 recalls (VOC 2007), or the area under the monotonically decreasing curve (VOC 2010 to 2012).

Boxes are COCO's [x, y, width, height]. The width x2 - x1 + 1 of the devkit's inclusive boxes is the same.
Masks follow the same rules with the IoU of masks (AP^r: Hariharan et al. 2014), at IoU .5 and .7 as FCIS reports them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rcnn.metrics.inputs import (
    Entry,
    EvaluationInputs,
    GroundTruth,
    Id,
    box_outline,
    check_inputs,
    outline_of,
    require_outlines,
)
from rcnn.metrics.values import FIELDS, Metrics, Number, PerClass
from rcnn.ops.coco_backend import as_compressed, iou_matrix

Year = Literal[2007, 2012]
THRESHOLDS: dict[str, dict[str, float]] = {"bbox": {"AP50": 0.5}, "segm": {"AP50": 0.5, "AP70": 0.7}}
# The recalls of py-faster-rcnn's voc_eval.py and of ChainerCV, which papers report. Here, .6 and .7 are one rounding
# error higher than in the devkit's MATLAB code, so that a recall of exactly .6 does not reach .6.
RECALLS_2007 = np.arange(0, 1.1, 0.1)


class _Object(NamedTuple):
    """A ground-truth object of one image and class."""

    number: int  # over all images
    shape: Any  # box [x, y, width, height] or compressed RLE
    ignored: bool


class _Detection(NamedTuple):
    """A detection in one image, of one class."""

    score: float
    shape: Any  # as that of an object


class _Match(NamedTuple):
    """A detection with the object that it overlaps most."""

    score: float
    iou: float  # 0: there is no object of the class in the image
    object: int  # its number; -1: there is none
    ignored: bool  # whether this object is ignored
    image: int  # index of the image


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The D detections of a class, sorted by score, each with the object that it overlaps most."""

    ious: npt.NDArray[np.float64]  # (D,) highest IoU with an object of the class in the image; 0: there is none
    objects: npt.NDArray[np.int64]  # (D,) this object, numbered over all images; -1: there is none
    ignored: npt.NDArray[np.bool_]  # (D,) whether this object is ignored
    images: npt.NDArray[np.int64]  # (D,) index of the image
    positives: npt.NDArray[np.int64]  # (I,) number of objects that are not ignored, by image


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The D detections of a class at an IoU threshold, sorted by score. Ignored ones are neither true nor false."""

    true: npt.NDArray[np.bool_]  # (D,)
    false: npt.NDArray[np.bool_]  # (D,)
    images: npt.NDArray[np.int64]  # (D,) index of the image
    positives: npt.NDArray[np.int64]  # (I,) number of objects that are not ignored, by image


def metric_names(kind: str) -> tuple[str, ...]:
    """The names of the metrics of `kind`; `AP` is the same as AP50, as in VOC."""
    return ("AP", *THRESHOLDS[kind])


def evaluate(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str] = ("bbox", "segm"),
    image_ids: Iterable[Id] | None = None,
    *,
    year: Year = 2012,
) -> Metrics:
    """VOC's metrics of `results` against `ground_truth`, both in COCO's formats, on the images of `image_ids`.

    Objects with `difficult` 1, crowds, and for masks objects without an outline are ignored: they are no false
    negatives, and detections of them are no false positives. `year`: 2007 (11 recalls) or 2012 (area under the curve).
    The mean is over the classes with objects; the values of the others are None.

    Raises ValueError as `metrics.coco.evaluate`; the kinds are bbox and segm.
    """
    inputs = check_inputs(ground_truth, results, kinds, image_ids, tuple(THRESHOLDS))
    values: dict[str, dict[str, Number]] = {}
    per_class: PerClass = {name: {} for name in inputs.names.values()}
    for kind in kinds:
        matches = matches_of(inputs, kind)
        for category_id, name in inputs.names.items():
            found = {
                metric: average_precision(hits_of(matches[category_id], threshold), year)
                for metric, threshold in THRESHOLDS[kind].items()
            }
            per_class[name][kind] = {"AP": found["AP50"]} | found
        values[kind] = {
            metric: mean_of_known([of_class[kind][metric] for of_class in per_class.values()])
            for metric in metric_names(kind)
        }
    return Metrics(
        kinds=values,
        per_class=per_class,
        images=len(inputs.images),
        objects=inputs.objects(ignored="difficult"),
        detections=len(inputs.results),
        max_detections={},
        metric=f"voc{year}",
    )


def hits_of(matches: Matches, threshold: float) -> Hits:
    """Which detections are true and false positives at an IoU `threshold`."""
    hit = matches.ious >= threshold
    true = np.zeros(len(hit), dtype=bool)
    candidates = np.flatnonzero(hit & ~matches.ignored)
    _, firsts = np.unique(matches.objects[candidates], return_index=True)  # the best detection of each object
    true[candidates[firsts]] = True
    false = ~true & ~(hit & matches.ignored)
    return Hits(true=true, false=false, images=matches.images, positives=matches.positives)


def average_precision(hits: Hits, year: Year, weights: npt.NDArray[np.int64] | None = None) -> Number:
    """AP of one class; None if it has no objects. `weights` (I,): how often each image counts; by default once."""
    repeats = np.ones(len(hits.true), dtype=np.int64) if weights is None else weights[hits.images]
    positives = hits.positives.sum() if weights is None else hits.positives @ weights
    if not positives:
        return None
    found = (hits.true * repeats).cumsum()
    recall = found / positives
    precision = found / np.maximum(found + (hits.false * repeats).cumsum(), 1)
    return _eleven_points(recall, precision) if year == 2007 else _area(recall, precision)


def _eleven_points(recall: npt.NDArray[np.float64], precision: npt.NDArray[np.float64]) -> float:
    """The mean over 11 recalls of the highest precision at this recall or a higher one."""
    return float(np.mean([precision[recall >= least].max(initial=0) for least in RECALLS_2007]))


def _area(recall: npt.NDArray[np.float64], precision: npt.NDArray[np.float64]) -> float:
    """The area under the highest precision at each recall or a higher one."""
    steps = np.diff(recall, prepend=0)
    return float((steps * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def mean_of_known(values: Sequence[Number]) -> Number:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def matches_of(inputs: EvaluationInputs, kind: str) -> dict[Id, Matches]:
    """The detections of each class, sorted by score; equal scores are sorted by image id, then in the given order."""
    sizes = {image["id"]: (image.get("height", 0), image.get("width", 0)) for image in inputs.data["images"]}
    order = {image: index for index, image in enumerate(inputs.images)}
    objects, positives = _objects_of(inputs, kind, sizes, order)
    found = _detections_of(inputs, kind, sizes)
    matches: dict[Id, list[_Match]] = defaultdict(list)
    for (image, category), detections in sorted(found.items(), key=lambda item: order[item[0][0]]):
        matches[category] += _matched(detections, objects.get((image, category), []), order[image])
    return {category: _sorted(matches[category], positives[category]) for category in inputs.names}


def _objects_of(
    inputs: EvaluationInputs, kind: str, sizes: Mapping[Id, tuple[int, int]], order: Mapping[Id, int]
) -> tuple[dict[tuple[Id, Id], list[_Object]], dict[Id, npt.NDArray[np.int64]]]:
    """The objects by image and class, and for each class the number (I,) of those that are not ignored, by image."""
    objects: dict[tuple[Id, Id], list[_Object]] = defaultdict(list)
    positives = {category: np.zeros(len(order), dtype=np.int64) for category in inputs.names}
    without = 0
    for number, (annotation, crowd) in enumerate(inputs.annotations):
        image, category = annotation["image_id"], annotation["category_id"]
        bare = kind == "segm" and outline_of(annotation) is None
        without += bare
        ignored = bool(crowd or annotation.get("difficult") or bare)
        positives[category][order[image]] += not ignored
        shape = annotation["bbox"]
        if kind == "segm":
            shape = as_compressed(outline_of(annotation) or box_outline(annotation), *sizes[image])
        objects[image, category].append(_Object(number, shape, ignored))
    if kind == "segm":
        require_outlines(inputs.source, len(inputs.annotations), without)
    return objects, positives


def _detections_of(
    inputs: EvaluationInputs, kind: str, sizes: Mapping[Id, tuple[int, int]]
) -> dict[tuple[Id, Id], list[_Detection]]:
    """The detections by image and class, in the given order."""
    found: dict[tuple[Id, Id], list[_Detection]] = defaultdict(list)
    for result in inputs.results:
        shape, image = result[FIELDS[kind]], result["image_id"]
        shape = shape if kind == "bbox" else as_compressed(shape, *sizes[image])
        found[image, result["category_id"]].append(_Detection(result["score"], shape))
    return found


def _matched(detections: Sequence[_Detection], objects: Sequence[_Object], image: int) -> list[_Match]:
    """The detections of one image and class, each with the object that it overlaps most."""
    ious = iou_matrix([each.shape for each in detections], [each.shape for each in objects])  # (D, G)
    if not objects:
        return [_Match(each.score, 0.0, -1, False, image) for each in detections]
    bests = ious.argmax(1)
    return [
        _Match(detection.score, float(row[best]), objects[best].number, objects[best].ignored, image)
        for detection, row, best in zip(detections, ious, bests.tolist(), strict=True)
    ]


def _sorted(matches: Sequence[_Match], positives: npt.NDArray[np.int64]) -> Matches:
    ordered = sorted(matches, key=lambda match: -match.score)  # stable
    return Matches(
        ious=np.array([match.iou for match in ordered], dtype=np.float64),
        objects=np.array([match.object for match in ordered], dtype=np.int64),
        ignored=np.array([match.ignored for match in ordered], dtype=bool),
        images=np.array([match.image for match in ordered], dtype=np.int64),
        positives=positives,
    )
