"""What an evaluation measures, decided before anything is predicted: what the model predicts and the data set has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.data.checks.tables import MetricName
from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.data.skeletons import require_names
from rcnn.metrics.choice import metric_for, names_of, require_no_limit
from rcnn.metrics.coco import MAX_DETECTIONS, MAX_KEYPOINT_DETECTIONS
from rcnn.models.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which kinds of metrics are computed, and what the user should know about it."""

    kinds: tuple[str, ...]  # of "bbox", "segm", "keypoints", "proposals"
    metric: MetricName = "coco"
    warnings: tuple[str, ...] = ()


def measured_kinds(config: DetectorConfig) -> tuple[str, ...]:
    """The kinds of metrics that the detections of a model allow."""
    allowed = {
        "segm": config.has_masks,
        "keypoints": config.keypoint is not None,
        "proposals": config.proposals_only,
    }
    return ("bbox", *(kind for kind, has in allowed.items() if has))


def plan_evaluation(
    kinds: Sequence[str],
    dataset: Dataset,
    *,
    limit: int = 0,
    max_detections: int | None = None,
    keypoint_names: Sequence[str] = (),
    metric: str = "",
) -> Plan:
    """The plan for detections of these `kinds` on the first `limit` images of `dataset` (0 = all).

    A kind that the ground truth or the metric cannot measure is skipped with a warning. `keypoint_names` are those of
    the model. `metric` defaults to that of the data set's format. Raises ValueError for an unknown metric, or for
    `max_detections` with a metric that has no limit.
    """
    named = metric_for(dataset, kinds, metric)
    require_no_limit(named, max_detections)
    chosen = [kind for kind in kinds if names_of(named, kind)]
    warnings = [
        f"{kind} are not evaluated: the metric {named} measures boxes and masks only; --metric coco has {kind}"
        for kind in kinds
        if kind not in chosen
    ]
    if "segm" in chosen and _lacks_outlines(dataset, limit):
        warnings.append(f"masks are not evaluated: {dataset.annotation_file} has boxes without outlines")
        chosen.remove("segm")
    if "keypoints" in chosen:
        try:
            require_names(dataset, keypoint_names)
        except ValueError as error:
            warnings.append(f"keypoints are not evaluated: {error}")
            chosen.remove("keypoints")
    for limited in (kind for kind in ("bbox", "segm", "keypoints") if kind in chosen and "proposals" not in chosen):
        if named != "coco":  # the others do not limit the detections of a class
            break
        own = MAX_KEYPOINT_DETECTIONS if limited == "keypoints" else MAX_DETECTIONS
        if warning := _detection_limit_warning(dataset, limit, max_detections or own):
            warnings.append(warning)
    return Plan(kinds=tuple(chosen), metric=named, warnings=tuple(dict.fromkeys(warnings)))


def _lacks_outlines(dataset: Dataset, limit: int) -> bool:
    """Whether there are objects (without ignored ones), but none has an outline."""
    count = _objects_of(dataset, limit)
    objects = dataset.objects
    own = ~objects.ignored[:count]
    return bool(own.any() and not objects.outlines.given[:count][own].any())


def _detection_limit_warning(dataset: Dataset, limit: int, max_detections: int) -> str | None:
    """A warning if images have more objects of a class than detections count."""
    count = _objects_of(dataset, limit)
    objects = dataset.objects
    images = objects.image_index[:count]
    keys = images * len(dataset.classes) + objects.labels[:count]
    pairs, per_class = np.unique(keys[~objects.ignored[:count]], return_counts=True)  # of an image and a class
    too_many = len(np.unique(pairs[per_class > max_detections] // len(dataset.classes)))  # images
    if not too_many:
        return None
    largest = int(per_class.max())
    has = "has" if too_many == 1 else "have"
    return (
        f"{counted(too_many, 'image')} {has} more than {counted(max_detections, 'object')} of one class (up to "
        f"{largest}), but at most {counted(max_detections, 'detection')} per image and class "
        f"{'counts' if max_detections == 1 else 'count'}, so even perfect detections would miss some. "
        f"max_detections={largest} (--max-detections) counts them all"
    )


def _objects_of(dataset: Dataset, limit: int) -> int:
    """Number of objects in the first `limit` images (0 = all)."""
    images = min(limit, len(dataset)) if limit else len(dataset)
    return int(dataset.objects.starts[images])
