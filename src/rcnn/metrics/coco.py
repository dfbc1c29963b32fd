"""COCO's detection metrics (Lin et al. 2014; defined at cocodataset.org/#detection-eval).

Ground truth and results are in COCO's formats: boxes [x, y, width, height] in pixels of the original image, category
ids of the annotation file (not our labels). Every metric is a fraction 0..1, or None where the ground truth has no
object to measure on (COCO's code prints -1), so that it is never averaged by accident.

A detection is correct if it is matched with an object: the best free object of its image and class with an IoU of at
least the threshold; for keypoints, an object keypoint similarity (OKS). Detections are matched in the order of their
scores, up to a limit per image and class. AP is the precision, interpolated at 101 recalls from 0 to 1, averaged over
recalls, thresholds and categories. AR is the highest recall, averaged over thresholds and categories.

The library hotcoco does the greedy matching, in threads of coco_matching.py, and accumulates precision and recall. This
file defines the metrics, and averages what hotcoco accumulated.

Letters: T IoU thresholds, K categories, A size ranges of objects, M limits of detections per image and class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rcnn.background import in_background
from rcnn.metrics.checks import check_fields
from rcnn.metrics.coco_entries import number_columns, require_same_keypoints, require_same_keypoints_in_results
from rcnn.metrics.coco_matching import KindMatching
from rcnn.metrics.collection import garbage_stays
from rcnn.metrics.inputs import Entry, EvaluationInputs, GroundTruth, Id, check_inputs, require_limit
from rcnn.metrics.values import CLASS_METRICS, FIELDS, SIZES, Metrics, Number, PerClass
from rcnn.ops.coco_backend import COCOeval

MAX_DETECTIONS = 100  # per image and class, best first: COCO's limit for boxes and masks ...
MAX_KEYPOINT_DETECTIONS = 20  # ... and for keypoints
MAX_PROPOSALS = 1000  # per image, of a region proposal network
TOGETHER = 64  # images whose results are matched with the ground truth in one call
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # (T,) of the IoU, or of the OKS


class Metric(NamedTuple):
    """The definition of one metric: which values of the curves it averages."""

    precision: bool  # else recall
    iou: float | None  # threshold of the IoU, for keypoints of the OKS; None: the mean over .50:.05:.95
    area: str  # size range of the objects: all, small (under 32 x 32 pixels of the image), medium, large (over 96 x 96)
    limit: int  # detections per image and class


def metrics_of(kind: str, max_detections: int | None = None) -> dict[str, Metric]:
    """Name -> definition of the metrics of `kind` (bbox, segm, keypoints, proposals), as in pycocotools' summarize.

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
    """The arrays behind the metrics, as in the `eval` of pycocotools' COCOeval. Where no object counts: -1."""

    precision: npt.NDArray[np.float64]  # (T, 101, K, A, M), interpolated, at recalls 0, .01, .. 1
    recall: npt.NDArray[np.float64]  # (T, K, A, M), the highest recall reached
    areas: tuple[str, ...]  # (A,) names of the size ranges, see `Metric.area`
    limits: tuple[int, ...]  # (M,) detections per image and class

    def value(self, metric: Metric, category: Sequence[int] | slice = slice(None)) -> Number:
        """The mean over the defined values of all categories, or of those with the indices `category` into K.

        None if no value is defined.
        """
        values = self._values(metric)[..., category]
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    def by_category(self, metric: Metric) -> list[Number]:
        """`value` of each category by itself: K numbers, in the order of the categories in the annotation file."""
        values = np.moveaxis(self._values(metric), -1, 0)  # (K, T) or (K, T, 101)
        values = np.ascontiguousarray(values).reshape(len(values), -1)
        known = values[:, 0] > -1  # of a category, all values are defined or none
        return [float(mean) if is_known else None for mean, is_known in zip(values.mean(axis=1), known, strict=True)]

    def of_classes(self, inputs: EvaluationInputs, metrics: Mapping[str, Metric]) -> dict[str, dict[str, Number]]:
        """Name of a category -> name of a metric -> value."""
        columns = {metric: self.by_category(definition) for metric, definition in metrics.items()}
        return {
            name: {metric: column[index] for metric, column in columns.items()}
            for index, name in enumerate(inputs.names.values())
        }

    def _values(self, metric: Metric) -> npt.NDArray[np.float64]:
        """What `metric` is the mean of: (T, K), or for precision (T, 101, K)."""
        values = self.precision if metric.precision else self.recall
        values = values[..., self.areas.index(metric.area), self.limits.index(metric.limit)]
        return values if metric.iou is None else values[np.isclose(THRESHOLDS, metric.iou)]


def evaluate(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str] = ("bbox", "segm"),
    image_ids: Iterable[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """COCO's metrics of `results` against `ground_truth`, equal to pycocotools'.

    Args:
        ground_truth: a COCO annotation file, or its content.
        results: in COCO's results format: image_id, category_id, score (higher is better), and the field of each kind:
            bbox [x, y, width, height]; segmentation, RLE or polygons; keypoints [x, y, score, x, ...]; all in pixels.
            Each kind uses its own field only. So the size of a detection (APs, APm, APl) is that of the mask for "segm"
            and of the box for "bbox", as with one file per kind.
        kinds: of "bbox", "segm", "keypoints" and "proposals", which are boxes evaluated without their classes.
        image_ids: the images to evaluate; None: all. Results of other known images are not used.
        keypoint_sigmas: one per keypoint, as in the OKS; needed if objects have other keypoints than COCO's 17.
        max_detections: replaces COCO's limit per image and class (100; keypoints 20; proposals 1000).

    Raises ValueError for an unknown kind, a result with an unknown image or category or without the field of a kind, a
    mask that has not the size of its image, different numbers of keypoints in results and ground truth, or ground truth
    without any outlines or keypoints if these are evaluated.
    """
    require_limit(max_detections)
    inputs = check_inputs(ground_truth, results, kinds, image_ids)
    return CocoEvaluation(inputs, kinds, keypoint_sigmas, max_detections).metrics()


class CocoEvaluation:
    """`evaluate` while results come: they are matched with the ground truth when they are added.

    Threads match them, one at a time for each kind, beside the caller (e.g. a model): see `KindMatching`. After the
    last image, only the sums over all images are left to do.
    """

    def __init__(
        self,
        inputs: EvaluationInputs,
        kinds: Sequence[str],
        keypoint_sigmas: Sequence[float] | None = None,
        max_detections: int | None = None,
    ) -> None:
        """`inputs` are those of `check_truth`, or of `check_inputs` with its results; the others as in `evaluate`."""
        if "keypoints" in kinds:
            require_same_keypoints(inputs, keypoint_sigmas)
        self._inputs = inputs
        self._max_detections = max_detections
        with garbage_stays():
            self._kinds = {
                kind: KindMatching(inputs, kind, _limits(kind, max_detections), keypoint_sigmas) for kind in kinds
            }
        self._left = {image["id"]: image for image in inputs.numbered_images()}  # images that are not matched yet
        self._added: list[Id] = []  # images that are matched next
        self._results: list[Entry] = []  # of these ...
        self._unchecked: list[Entry] = []  # ... and those of them that may be damaged
        self._detections = 0
        if inputs.results:
            self._match(inputs.images, inputs.results)

    def add(self, image_ids: Sequence[Id], results: Sequence[Entry], *, checked: bool = False) -> None:
        """Match all `results` of these images with their objects. An image is added once.

        Results are those of a model: of known images and classes, with masks that can be decoded and fit their images.
        Unless they are `checked`, raises ValueError if another field is damaged, e.g. not finite. A few images are
        matched together, so a later call may raise the error.
        """
        for matching in self._kinds.values():
            matching.raise_errors()
        self._added += image_ids
        self._results += results
        if not checked:
            self._unchecked += results
        if len(self._added) >= TOGETHER:
            self._match_added()

    def _match_added(self) -> None:
        check_fields(self._unchecked)
        self._match(self._added, self._results.copy())  # the threads read it later
        for one in (self._added, self._results, self._unchecked):
            one.clear()

    def _match(self, image_ids: Sequence[Id], results: Sequence[Entry]) -> None:
        if "keypoints" in self._kinds:
            require_same_keypoints_in_results(self._inputs, results)
        images = [self._left.pop(self._inputs.image_numbers[image_id]) for image_id in image_ids]
        columns = number_columns(self._inputs, results)
        for matching in self._kinds.values():
            matching.add(images, results, columns)
        self._detections += len(results)

    def metrics(self) -> Metrics:
        """The metrics of all images; those that were not added have no detections."""
        inputs = self._inputs
        self._match_added()
        self._match([image_id for image_id, number in inputs.image_numbers.items() if number in self._left], [])
        found = {kind: in_background(_curves_of_matching, matching) for kind, matching in self._kinds.items()}
        objects = inputs.objects()
        values: dict[str, dict[str, Number]] = {}
        per_class: PerClass = {name: {} for name in inputs.names.values()}
        definitions = {kind: metrics_of(kind, self._max_detections) for kind in self._kinds}
        for kind, future in found.items():
            curves = future.result()
            values[kind] = {name: curves.value(metric) for name, metric in definitions[kind].items()}
            for name, of_class in curves.of_classes(inputs, class_metrics_of(kind, self._max_detections)).items():
                per_class[name][kind] = of_class
        return Metrics(
            kinds=values,
            per_class=per_class,
            images=len(inputs.images),
            objects=objects,
            detections=self._detections,
            max_detections={kind: max(m.limit for m in metrics.values()) for kind, metrics in definitions.items()},
        )


def _limits(kind: str, max_detections: int | None) -> list[int]:
    """The ascending limits (M,) of detections per image and class that the metrics of `kind` use."""
    return sorted({metric.limit for metric in metrics_of(kind, max_detections).values()})


def curves_of(evaluation: COCOeval, limits: Sequence[int]) -> Curves:
    """The arrays of an evaluation, for these ascending limits (M,) of detections per image and class."""
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    return _accumulated(evaluation)


def _curves_of_matching(matching: KindMatching) -> Curves:
    """The arrays of all images that were added."""
    return _accumulated(matching.finish())


def _accumulated(evaluation: COCOeval) -> Curves:
    """The arrays of an evaluation that has matched its detections."""
    evaluation.accumulate()
    params, arrays = evaluation.params, evaluation.eval or {}
    return Curves(
        precision=np.asarray(arrays["precision"]),
        recall=np.asarray(arrays["recall"]),
        areas=tuple(params.areaRngLbl),
        limits=tuple(params.maxDets),
    )
