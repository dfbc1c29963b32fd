"""The metrics by name, and the choice of the metric for a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, get_args

from rcnn.data.checks.tables import MetricName
from rcnn.data.records import Dataset
from rcnn.metrics import coco, lvis, voc
from rcnn.metrics.checks import Entry, GroundTruth, Id
from rcnn.metrics.inputs import check_truth, require_limit
from rcnn.metrics.values import Metrics

METRICS: tuple[MetricName, ...] = get_args(MetricName)
COCO_ONLY = ("keypoints", "proposals")  # kinds that the other metrics do not define


def require_metric(chosen: str) -> None:
    """Raise ValueError for the name of a metric that is not known; an empty one stands for the default."""
    if chosen and chosen not in METRICS:
        raise ValueError(f"metric {chosen!r} is not known; expected {', '.join(METRICS)}")


def metric_for(dataset: Dataset, kinds: Sequence[str], chosen: str = "") -> MetricName:
    """The metric `chosen`, which defaults to that of the data set's format.

    Models with keypoints, and region proposal networks, default to COCO's. Raises ValueError for an unknown name.
    """
    require_metric(chosen)
    for name in METRICS:
        if name == chosen:
            return name
    return "coco" if any(kind in COCO_ONLY for kind in kinds) else dataset.metric


def names_of(metric: MetricName, kind: str) -> tuple[str, ...]:
    """The names of the metrics of `kind` in the definition `metric`; () if it does not measure that kind."""
    if metric == "coco":
        return tuple(coco.metrics_of(kind))
    if kind in COCO_ONLY:
        return ()
    return lvis.metric_names() if metric == "lvis" else voc.metric_names(kind)


def evaluate(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str],
    image_ids: Iterable[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """The metrics of `results` by the definition `metric`; the other arguments as in `metrics.coco.evaluate`.

    Raises its errors, and ValueError for `max_detections` with VOC's metric, which has no limit.
    """
    check_limit(metric, max_detections)
    match metric:
        case "coco":
            return coco.evaluate(ground_truth, results, kinds, image_ids, keypoint_sigmas, max_detections)
        case "lvis":
            return lvis.evaluate(ground_truth, results, kinds, image_ids, max_detections)
        case "voc2007" | "voc2012":
            return voc.evaluate(ground_truth, results, kinds, image_ids, year=2007 if metric == "voc2007" else 2012)


class Measurement(Protocol):
    """An evaluation that gets its results image by image."""

    def add(self, image_ids: Sequence[Id], results: Sequence[Entry], *, checked: bool = False) -> None:
        """Add all `results` of these images. An image is added once.

        `checked`: their numbers are known to be valid. An error in the results may be raised by a later call.
        """
        ...

    def metrics(self) -> Metrics:
        """The metrics; images that were not added have no detections."""
        ...


def measure(
    metric: MetricName,
    ground_truth: Path | str | GroundTruth,
    kinds: Sequence[str],
    image_ids: Sequence[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    max_detections: int | None = None,
) -> Measurement:
    """`evaluate` for the results of a model while it runs; ground truth is checked now, results are not.

    COCO's metrics are computed as far as possible when the results of an image are added, the others at the end.
    """
    check_limit(metric, max_detections)
    if metric == "coco":
        inputs = check_truth(ground_truth, kinds, image_ids)
        return coco.CocoEvaluation(inputs, kinds, keypoint_sigmas, max_detections)
    require_truth(metric, ground_truth, kinds, image_ids)
    return _AtTheEnd(metric, ground_truth, kinds, image_ids, max_detections)


def require_truth(
    metric: MetricName, ground_truth: Path | str | GroundTruth, kinds: Sequence[str], image_ids: Sequence[Id] | None
) -> None:
    """Raise ValueError for ground truth that LVIS' or VOC's metric cannot be computed on; arguments as in `measure`."""
    inputs = check_truth(ground_truth, kinds, image_ids, lvis.KINDS if metric == "lvis" else tuple(voc.THRESHOLDS))
    if metric == "lvis":
        lvis.require_federated(inputs)


class _AtTheEnd:
    """Keeps the results, and calls `evaluate` with all of them."""

    def __init__(
        self,
        metric: MetricName,
        ground_truth: Path | str | GroundTruth,
        kinds: Sequence[str],
        image_ids: Sequence[Id] | None,
        max_detections: int | None,
    ) -> None:
        self._results: list[Entry] = []
        self._evaluate = partial(
            evaluate, metric, ground_truth, self._results, kinds, image_ids, max_detections=max_detections
        )

    def add(self, image_ids: Sequence[Id], results: Sequence[Entry], *, checked: bool = False) -> None:
        """Keep the results, which are checked at the end."""
        self._results += results

    def metrics(self) -> Metrics:
        """The metrics of all results."""
        return self._evaluate()


def check_limit(metric: MetricName, max_detections: int | None) -> None:
    """Raise ValueError for a limit of detections below 1, or one for VOC's metric, which counts all."""
    require_limit(max_detections)
    if max_detections is not None and metric.startswith("voc"):
        raise ValueError(
            f"max_detections={max_detections} (--max-detections): the metric {metric} counts all detections; leave it "
            "out, or set the model's own limit, box.selection.max_detections"
        )
