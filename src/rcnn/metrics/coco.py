"""COCO's detection metrics (Lin et al. 2014; defined at cocodataset.org/#detection-eval).

Ground truth and results are in COCO's formats: boxes [x, y, width, height] in pixels of the original image, category
ids of the annotation file (not our labels). Every metric is a fraction 0..1, or None where the ground truth has no
object to measure on (COCO's code prints -1), so that it is never averaged by accident.

Letters: T IoU thresholds, K categories, A area ranges, M limits of detections per image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rcnn.data.messages import counted, few
from rcnn.metrics.inputs import (
    Entry,
    EvaluationInputs,
    GroundTruth,
    Id,
    box_outline,
    check_inputs,
    outline_of,
    require_limit,
    require_outlines,
)
from rcnn.metrics.values import CLASS_METRICS, FIELDS, SIZES, Metrics, Number, PerClass
from rcnn.models.config import COCO_SIGMAS
from rcnn.ops.coco_backend import COCO, COCOeval

MAX_DETECTIONS = 100  # per image and class, best first: COCO's limit for boxes and masks ...
MAX_KEYPOINT_DETECTIONS = 20  # ... and for keypoints
MAX_PROPOSALS = 1000  # per image, of a region proposal network
ONE_CLASS: Entry = {"id": 1, "name": "object"}  # of proposals
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU


class Metric(NamedTuple):
    """The definition of one metric: which values of the curves it averages."""

    precision: bool  # else recall
    iou: float | None  # threshold; None: the mean over .50:.05:.95
    area: str  # size range of the objects: all, small (under 32 x 32 pixels), medium, large (over 96 x 96)
    limit: int  # detections per image and class


def metrics_of(kind: str, max_detections: int | None = None) -> dict[str, Metric]:
    """Name -> definition of the metrics of `kind`.

    `max_detections` replaces the limit (100, keypoints 20, proposals 1000); AR at lower limits (AR1, AR10) is kept.
    """
    if kind == "proposals":
        limit = max_detections or MAX_PROPOSALS
        recalls = {f"AR{count}": Metric(False, None, "all", count) for count in sorted({min(100, limit), limit})}
        return recalls | {f"AR{limit}{letter}": Metric(False, None, size, limit) for letter, size in SIZES.items()}
    if kind == "keypoints":
        limit = max_detections or MAX_KEYPOINT_DETECTIONS
        sizes = {letter: size for letter, size in SIZES.items() if letter != "s"}
        recalls = {"AR": Metric(False, None, "all", limit)}
        recalls |= {"AR50": Metric(False, 0.5, "all", limit), "AR75": Metric(False, 0.75, "all", limit)}
    else:
        limit, sizes = max_detections or MAX_DETECTIONS, SIZES
        counts = sorted({count for count in (1, 10, 100) if count < limit} | {limit})
        recalls = {f"AR{count}": Metric(False, None, "all", count) for count in counts}
    precisions = {"AP": Metric(True, None, "all", limit)}
    precisions |= {"AP50": Metric(True, 0.5, "all", limit), "AP75": Metric(True, 0.75, "all", limit)}
    precisions |= {f"AP{letter}": Metric(True, None, size, limit) for letter, size in sizes.items()}
    return precisions | recalls | {f"AR{letter}": Metric(False, None, size, limit) for letter, size in sizes.items()}


def class_metrics_of(kind: str, max_detections: int | None = None) -> dict[str, Metric]:
    """Name -> definition of the metrics of each class: AP, AP50, AP75, those by size, and AR at the highest limit.

    Empty for proposals, which have no classes.
    """
    if kind == "proposals":
        return {}
    metrics = metrics_of(kind, max_detections)
    recall = Metric(False, None, "all", max(metric.limit for metric in metrics.values()))
    return {name: metrics[name] for name in CLASS_METRICS if name in metrics} | {"AR": recall}


METRICS = {kind: metrics_of(kind) for kind in FIELDS}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The arrays behind the metrics, -1 where undefined."""

    precision: npt.NDArray[np.float64]  # (T, 101, K, A, M), at recalls 0, .01, .. 1
    recall: npt.NDArray[np.float64]  # (T, K, A, M), the highest recall reached
    areas: tuple[str, ...]
    limits: tuple[int, ...]

    def value(self, metric: Metric, category: int | Sequence[int] | slice = slice(None)) -> Number:
        """The mean over the defined values of all categories, or of those with the indices `category`; None if none."""
        values = self.precision if metric.precision else self.recall
        values = values[..., category, self.areas.index(metric.area), self.limits.index(metric.limit)]
        if metric.iou is not None:
            values = values[np.isclose(THRESHOLDS, metric.iou)]
        values = values[values > -1]
        return float(values.mean()) if values.size else None


def evaluate(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str] = ("bbox", "segm"),
    image_ids: Iterable[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """COCO's metrics of `results` (COCO results format) against `ground_truth` (a COCO file, or its content).

    One result may have several fields ("bbox" and "segmentation"): each kind uses its own field only. So the size of a
    detection (APs, APm, APl) is that of the mask for "segm" and of the box for "bbox", as with one file per kind.
    All images are evaluated, or those of `image_ids`; results of other known images are not used.
    `keypoint_sigmas` are needed if objects have other keypoints than COCO's 17 of a person. `max_detections` replaces
    COCO's limit of detections per image and class (100; keypoints 20; proposals 1000). Proposals are evaluated without
    their classes.

    Raises ValueError for an unknown kind, a result with an unknown image or category or without the field of a kind, a
    mask that has not the size of its image, different numbers of keypoints in results and ground truth, or ground truth
    without any outlines or keypoints if these are evaluated.
    """
    require_limit(max_detections)
    inputs = check_inputs(ground_truth, results, kinds, image_ids)
    values: dict[str, dict[str, Number]] = {}
    per_class: PerClass = {name: {} for name in inputs.names.values()}
    for kind in kinds:
        metrics = metrics_of(kind, max_detections)
        truth = ground_truth_of_kind(inputs, kind)
        if kind == "keypoints":
            _require_same_keypoints(inputs, keypoint_sigmas)
        curves = _curves(truth, results_of_kind(inputs, inputs.results, kind), kind, metrics, keypoint_sigmas)
        values[kind] = {name: curves.value(metric) for name, metric in metrics.items()}
        for index, name in enumerate(inputs.names.values()):
            of_class = class_metrics_of(kind, max_detections)
            per_class[name][kind] = {m: curves.value(metric, index) for m, metric in of_class.items()}
    return Metrics(
        kinds=values,
        per_class=per_class,
        images=len(inputs.images),
        objects=inputs.objects(),
        detections=len(inputs.results),
        max_detections={kind: max(m.limit for m in metrics_of(kind, max_detections).values()) for kind in kinds},
    )


def ground_truth_of_kind(inputs: EvaluationInputs, kind: str) -> GroundTruth:
    """The ground truth of one kind; images and annotations numbered from 1 (COCO's code misreads id 0)."""
    data, images = inputs.data, inputs.numbered_images()
    annotations: list[Entry] = []
    without = 0  # objects without an outline
    # COCO's code needs keypoints in every object; an object without keypoints gets invisible ones
    keypoint_values = max((len(annotation.get("keypoints") or ()) for annotation in data["annotations"]), default=0)
    for annotation, crowd in inputs.annotations:
        entry = inputs.numbered_annotation(annotation, len(annotations) + 1) | {"iscrowd": crowd}
        if kind == "segm":
            entry["segmentation"] = outline = outline_of(annotation)
            if outline is None:
                # its box becomes a crowd: it is no false negative, and a detection of it is no false positive
                entry |= {"iscrowd": 1, "segmentation": box_outline(annotation)}
                without += 1
        elif kind == "keypoints":
            points = annotation.get("keypoints") or [0] * keypoint_values
            visible = sum(1 for visibility in points[2::3] if visibility > 0)
            entry |= {"keypoints": points, "num_keypoints": annotation.get("num_keypoints", visible)}
        annotations.append(entry)
    if kind == "segm":
        require_outlines(inputs.source, len(annotations), without)
    if kind == "keypoints" and annotations and not keypoint_values:
        raise ValueError(
            f"{inputs.source} has no keypoints in any annotation; use the person_keypoints file of the split"
        )
    if kind == "proposals":
        annotations = [{**entry, "category_id": ONE_CLASS["id"]} for entry in annotations]
        return {"images": images, "annotations": annotations, "categories": [ONE_CLASS]}
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def _require_same_keypoints(inputs: EvaluationInputs, sigmas: Sequence[float] | None) -> None:
    """Raise ValueError unless objects, results and sigmas have the same number of keypoints.

    With different numbers, COCO's code computes wrong values without a message.
    """
    counts = {len(annotation.get("keypoints") or ()) // 3 for annotation, _ in inputs.annotations} - {0}
    if len(counts) > 1:
        raise ValueError(
            f"{inputs.source} has objects with {few(sorted(counts))} keypoints; expected the same number in all"
        )
    for count in counts:
        expected = len(COCO_SIGMAS) if sigmas is None else len(sigmas)
        if count != expected:
            raise ValueError(
                f"{inputs.source} has objects with {counted(count, 'keypoint')}, but keypoint_sigmas are "
                f"{'those of COCO for ' if sigmas is None else ''}{expected}; give one sigma per keypoint"
            )
        for result in inputs.results:
            found = len(result["keypoints"]) // 3
            if found != count:
                raise ValueError(
                    f"a result (image {result['image_id']!r}) has {counted(found, 'keypoint')}, but objects in "
                    f"{inputs.source} have {count}; evaluate against the data set that the model was trained for"
                )


def results_of_kind(inputs: EvaluationInputs, results: Sequence[Entry], kind: str) -> list[Entry]:
    """The `results` with the one field that `kind` measures, images renumbered."""
    return [
        {
            "image_id": inputs.image_numbers[result["image_id"]],
            "category_id": ONE_CLASS["id"] if kind == "proposals" else result["category_id"],
            "score": result["score"],
            FIELDS[kind]: result[FIELDS[kind]],
        }
        for result in results
    ]


def _curves(
    ground_truth: GroundTruth,
    results: list[Entry],
    kind: str,
    metrics: Mapping[str, Metric],
    keypoint_sigmas: Sequence[float] | None,
) -> Curves:
    coco = COCO(ground_truth)
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox" if kind == "proposals" else kind)
    if kind == "keypoints" and keypoint_sigmas is not None:
        evaluation.params.kpt_oks_sigmas = list(keypoint_sigmas)
    return curves_of(evaluation, sorted({metric.limit for metric in metrics.values()}))


def curves_of(evaluation: COCOeval, limits: Sequence[int]) -> Curves:
    """The arrays of an evaluation, for these ascending limits of detections."""
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    params, arrays = evaluation.params, evaluation.eval or {}
    return Curves(
        precision=np.asarray(arrays["precision"]),
        recall=np.asarray(arrays["recall"]),
        areas=tuple(params.areaRngLbl),
        limits=tuple(params.maxDets),
    )
