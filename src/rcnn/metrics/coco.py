"""COCO's detection metrics (Lin et al. 2014; defined at cocodataset.org/#detection-eval).

Ground truth and results are in COCO's formats: boxes [x, y, width, height] in pixels of the original image, category
ids of the annotation file (not our labels). Every metric is a fraction 0..1, or None where the ground truth has no
object to measure on (COCO's code prints -1), so that it is never averaged by accident.

Letters: T IoU thresholds, K categories, A area ranges, M limits of detections per image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rcnn.data.checks.numbers import flags
from rcnn.metrics.inputs import (
    Entry,
    GroundTruth,
    Id,
    check_masks,
    check_results,
    chosen_images,
    read_ground_truth,
)
from rcnn.ops.coco_backend import COCO, COCOeval

Number = float | None

MAX_DETECTIONS = 100  # per image and class, best first: COCO's limit for boxes and masks ...
MAX_KEYPOINT_DETECTIONS = 20  # ... and for keypoints
MAX_PROPOSALS = 1000  # per image, of a region proposal network
_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU

# kind -> the field of a result that it measures
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints", "proposals": "bbox"}


class Metric(NamedTuple):
    """How one number is taken from the curves."""

    precision: bool  # else recall
    iou: float | None  # threshold; None: the mean over .50:.05:.95
    area: str  # size range of the objects: all, small (under 32 x 32 pixels), medium, large (over 96 x 96)
    limit: int  # detections per image and class


def metrics_of(kind: str, max_detections: int | None = None) -> dict[str, Metric]:
    """Name -> definition of the metrics of `kind`.

    `max_detections` replaces the limit (100, keypoints 20, proposals 1000); recalls at lower limits (AR1, AR10) stay.
    """
    if kind == "proposals":
        limit = max_detections or MAX_PROPOSALS
        sizes = {"s": "small", "m": "medium", "l": "large"}
        recalls = {f"AR{count}": Metric(False, None, "all", count) for count in sorted({min(100, limit), limit})}
        return recalls | {f"AR{limit}{letter}": Metric(False, None, size, limit) for letter, size in sizes.items()}
    if kind == "keypoints":
        limit = max_detections or MAX_KEYPOINT_DETECTIONS
        sizes = {"m": "medium", "l": "large"}
        recalls = {"AR": Metric(False, None, "all", limit)}
        recalls |= {"AR50": Metric(False, 0.5, "all", limit), "AR75": Metric(False, 0.75, "all", limit)}
    else:
        limit = max_detections or MAX_DETECTIONS
        sizes = {"s": "small", "m": "medium", "l": "large"}
        counts = sorted({count for count in (1, 10, 100) if count < limit} | {limit})
        recalls = {f"AR{count}": Metric(False, None, "all", count) for count in counts}
    precisions = {"AP": Metric(True, None, "all", limit)}
    precisions |= {"AP50": Metric(True, 0.5, "all", limit), "AP75": Metric(True, 0.75, "all", limit)}
    precisions |= {f"AP{letter}": Metric(True, None, size, limit) for letter, size in sizes.items()}
    return precisions | recalls | {f"AR{letter}": Metric(False, None, size, limit) for letter, size in sizes.items()}


METRICS = {kind: metrics_of(kind) for kind in FIELDS}


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of one set of results."""

    kinds: dict[str, dict[str, Number]]  # {"bbox": {"AP": .., "AP50": .., ...}, "segm": {...}}
    per_class: dict[str, dict[str, dict[str, Number]]]  # {"person": {"bbox": {"AP": .., "AP50": ..}, ...}}
    images: int  # evaluated, including those without detections or objects
    objects: dict[str, int]  # ground-truth objects of each class, without crowds
    detections: int  # results evaluated
    max_detections: dict[str, int]  # per image and class that count, of each kind

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics.json: one entry per kind, then `per_class` and `counts`."""
        counts = {"images": self.images, "detections": self.detections, "objects": self.objects}
        return {
            **self.kinds,
            "per_class": self.per_class,
            "counts": counts,
            "max_detections": self.max_detections,
        }


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The arrays behind the metrics, -1 where undefined."""

    precision: npt.NDArray[np.float64]  # (T, 101, K, A, M), at recalls 0, .01, .. 1
    recall: npt.NDArray[np.float64]  # (T, K, A, M), the highest reached
    areas: tuple[str, ...]
    limits: tuple[int, ...]

    def value(self, metric: Metric, category: int | slice = slice(None)) -> Number:
        """The mean over what is defined, of all categories or of the one at place `category`."""
        values = self.precision if metric.precision else self.recall
        values = values[..., category, self.areas.index(metric.area), self.limits.index(metric.limit)]
        if metric.iou is not None:
            values = values[np.isclose(_THRESHOLDS, metric.iou)]
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

    One result may have several fields ("bbox" and "segmentation"): each kind sees its own field only, so that sizes
    (APs, APm, APl) are the mask's for "segm" and the box's for "bbox", as if COCO read one results file per kind.
    All images are evaluated, or those of `image_ids`; results of other known images are not used.
    `keypoint_sigmas` are needed if objects have other keypoints than COCO's 17 of a person. `max_detections` replaces
    COCO's limit of detections per image and class (100; keypoints 20; proposals 1000).

    Raises ValueError for an unknown kind, a result with an unknown image or category or without the field of a kind, a
    mask of another size than its image, or ground truth without any outline or keypoints if those are evaluated.
    """
    for kind in kinds:
        if kind not in FIELDS:
            raise ValueError(f"kind {kind!r} is not known; expected {', '.join(FIELDS)}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections={max_detections}; expected 1 or more")
    data, source = read_ground_truth(ground_truth)
    chosen = chosen_images(data, image_ids, source)
    check_results(data, results, source)
    numbers = {image_id: number for number, image_id in enumerate(chosen, start=1)}
    kept = [result for result in results if result["image_id"] in numbers]
    if "segm" in kinds:
        check_masks(data, kept, source)
    names = class_names(data)
    values: dict[str, dict[str, Number]] = {}
    per_class: dict[str, dict[str, dict[str, Number]]] = {name: {} for name in names.values()}
    for kind in kinds:
        metrics = metrics_of(kind, max_detections)
        truth = _ground_truth_of_kind(data, numbers, kind, source)
        curves = _curves(truth, _results_of_kind(kept, numbers, kind), kind, metrics, keypoint_sigmas)
        values[kind] = {name: curves.value(metric) for name, metric in metrics.items()}
        for place, name in enumerate(names.values()):
            shown = [m for m in ("AP", "AP50") if m in metrics]
            per_class[name][kind] = {m: curves.value(metrics[m], place) for m in shown}
    count = Counter(
        annotation["category_id"]
        for annotation, crowd in zip(data["annotations"], _crowds(data), strict=True)
        if annotation["image_id"] in numbers and not crowd
    )
    objects = {name: count[category_id] for category_id, name in names.items()}
    return Metrics(
        kinds=values,
        per_class=per_class,
        images=len(chosen),
        objects=objects,
        detections=len(kept),
        max_detections={kind: max(m.limit for m in metrics_of(kind, max_detections).values()) for kind in kinds},
    )


def class_names(data: GroundTruth) -> dict[Id, str]:
    """Category id -> name, by ascending id as in COCO's arrays; names that occur twice get their id."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    uses = Counter(str(category["name"]) for category in categories)
    return {
        c["id"]: str(c["name"]) if uses[str(c["name"])] == 1 else f"{c['name']} (category {c['id']})"
        for c in categories
    }


def _ground_truth_of_kind(data: GroundTruth, numbers: Mapping[Id, int], kind: str, source: str) -> GroundTruth:
    """The ground truth of one kind; images numbered by `numbers`, annotations from 1 (COCO's code misreads id 0)."""
    images = [
        {"id": numbers[image["id"]], "height": image.get("height", 0), "width": image.get("width", 0)}
        for image in data["images"]
        if image["id"] in numbers
    ]
    annotations: list[Entry] = []
    without = 0  # objects without an outline
    # COCO's code needs keypoints in every object; one without any gets points that are not visible
    keypoint_values = max((len(annotation.get("keypoints") or ()) for annotation in data["annotations"]), default=0)
    for annotation, crowd in zip(data["annotations"], _crowds(data), strict=True):
        if annotation["image_id"] not in numbers:
            continue
        entry: Entry = {
            "id": len(annotations) + 1,
            "image_id": numbers[annotation["image_id"]],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": crowd,
        }
        if kind == "segm":
            entry["segmentation"] = outline = _outline(annotation.get("segmentation"))
            if outline is None:
                # Neither required nor counted against a detection: its box becomes a crowd.
                x, y, width, height = annotation["bbox"]
                corners = [x, y, x, y + height, x + width, y + height, x + width, y]
                entry |= {"iscrowd": 1, "segmentation": [corners]}
                without += 1
        elif kind == "keypoints":
            points = annotation.get("keypoints") or [0] * keypoint_values
            visible = sum(1 for visibility in points[2::3] if visibility > 0)
            entry |= {"keypoints": points, "num_keypoints": annotation.get("num_keypoints", visible)}
        annotations.append(entry)
    if kind == "segm" and annotations and without == len(annotations):
        raise ValueError(f"{source} has no outline in any annotation, so masks cannot be evaluated; use kind bbox only")
    if kind == "keypoints" and annotations and not keypoint_values:
        raise ValueError(f"{source} has no keypoints in any annotation; use the person_keypoints file of the split")
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def _crowds(data: GroundTruth) -> list[int]:
    """0 or 1 for each annotation, read as a data set reads it: the text "0" and null are 0."""
    return flags([annotation.get("iscrowd", 0) for annotation in data["annotations"]])[0].tolist()


def _outline(segmentation: Any) -> Any:
    """The segmentation without parts of fewer than three points; None if nothing remains."""
    if isinstance(segmentation, dict):
        return segmentation if segmentation.get("counts") else None
    return [part for part in segmentation or [] if len(part) >= 6] or None


def _results_of_kind(results: Sequence[Entry], numbers: Mapping[Id, int], kind: str) -> list[Entry]:
    """The results with the one field that `kind` measures, images renumbered."""
    field = FIELDS[kind]
    kept: list[Entry] = []
    for row, result in enumerate(results):
        if field not in result:
            raise ValueError(
                f"result {row} (image {result['image_id']!r}) has no {field!r}, which the metrics of kind {kind!r} "
                "need; leave that kind out"
            )
        image, score = numbers[result["image_id"]], result["score"]
        kept.append({"image_id": image, "category_id": result["category_id"], "score": score, field: result[field]})
    return kept


def _curves(
    ground_truth: GroundTruth,
    results: list[Entry],
    kind: str,
    metrics: Mapping[str, Metric],
    keypoint_sigmas: Sequence[float] | None,
) -> Curves:
    coco = COCO(ground_truth)
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox" if kind == "proposals" else kind)
    evaluation.params.maxDets = sorted({metric.limit for metric in metrics.values()})
    if kind == "keypoints" and keypoint_sigmas is not None:
        evaluation.params.kpt_oks_sigmas = list(keypoint_sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    params, arrays = evaluation.params, evaluation.eval or {}
    return Curves(
        precision=np.asarray(arrays["precision"]),
        recall=np.asarray(arrays["recall"]),
        areas=tuple(params.areaRngLbl),
        limits=tuple(params.maxDets),
    )
