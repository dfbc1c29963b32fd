"""The plan of an evaluation: the kinds of metrics that both the model and the data set allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.arguments import as_optional_text, require_switches, require_workers, whole_number
from rcnn.data.checks.tables import MetricName
from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.data.skeletons import require_names
from rcnn.metrics import coco, lvis
from rcnn.metrics.choice import check_limit, metric_for, names_of, require_metric
from rcnn.metrics.inputs import require_limit
from rcnn.models.config import DetectorConfig
from rcnn.models.setting_tables import settings_table


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The options of an evaluation."""

    limit: int = 0  # only this number of images, the first ones; 0: all
    batch_size: int = 1  # images per forward pass
    workers: int = 2  # threads that read images; 0 is 1
    max_detections: int | None = None  # per image and class that count; None: the metric's limits
    metric: str = ""  # one of metrics.choice.METRICS; empty: that of the data set's format
    pictures: int = 8  # images drawn in the report
    boundary: bool = False  # also measure boundary AP of masks

    def __post_init__(self) -> None:
        """Raises ValueError for a number that is out of range, or a value of another type."""
        for name, least in (("limit", 0), ("batch_size", 1), ("pictures", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), f"{least} or more", least))
        object.__setattr__(self, "workers", require_workers(self.workers))
        require_limit(self.max_detections)
        require_metric(as_optional_text(self.metric, "metric", path=False))
        require_switches(boundary=self.boundary)
        if self.max_detections is not None:
            object.__setattr__(self, "max_detections", int(self.max_detections))
        object.__setattr__(self, "boundary", bool(self.boundary))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The kinds of metrics that are computed, and the warnings about them."""

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
    `max_detections` below 1 or with a metric that has no limit.
    """
    named = metric_for(dataset, kinds, metric)
    check_limit(named, max_detections)
    chosen = [kind for kind in kinds if names_of(named, kind)]
    warnings = [
        f"{kind} are not evaluated: the metric {named} measures boxes and masks only; metric=coco (--metric) has {kind}"
        for kind in kinds
        if kind not in chosen
    ]
    if "segm" in chosen and lacks_outlines(dataset, limit):
        warnings.append(f"masks are not evaluated: {dataset.annotation_file} has boxes without outlines")
        chosen.remove("segm")
    if "keypoints" in chosen:
        try:
            require_names(dataset, keypoint_names)
        except ValueError as error:
            warnings.append(f"keypoints are not evaluated: {error}")
            chosen.remove("keypoints")
    if named == "lvis":
        warnings += _limit_warnings(dataset, limit, max_detections or lvis.MAX_DETECTIONS, per_class=False)
    elif named == "coco" and "proposals" not in chosen:
        limits = [coco.MAX_KEYPOINT_DETECTIONS if kind == "keypoints" else coco.MAX_DETECTIONS for kind in chosen]
        for most in dict.fromkeys(max_detections or one for one in limits):
            warnings += _limit_warnings(dataset, limit, most, per_class=True)
    return Plan(kinds=tuple(chosen), metric=named, warnings=tuple(warnings))


def limit_overrides(
    config: DetectorConfig, dataset: Dataset, *, max_detections: int | None = None, metric: str = ""
) -> list[str]:
    """KEY=VALUE settings that raise a model's limit of detections per image to the number that the metric counts.

    That number is `max_detections`, by default 300 for LVIS; COCO's limit is per class, so it changes nothing. Empty if
    the model already returns enough.
    """
    if max_detections is None and metric_for(dataset, measured_kinds(config), metric) == "lvis":
        max_detections = lvis.MAX_DETECTIONS
    limits = {row.path: row.default for row in settings_table(config) if row.path.endswith("max_detections")}
    if not config.has_box_head:
        limits.pop("box.selection.max_detections")
    return [f"{path}={max_detections}" for path, limit in limits.items() if limit < (max_detections or 0)]


def limit_warnings(
    config: DetectorConfig, dataset: Dataset, *, max_detections: int | None = None, metric: str = ""
) -> tuple[str, ...]:
    """A warning if a model returns fewer detections per image than the metric counts."""
    return tuple(
        f"the model returns fewer detections per image than the metric counts, which lowers AP; set {setting}"
        for setting in limit_overrides(config, dataset, max_detections=max_detections, metric=metric)
    )


def lacks_outlines(dataset: Dataset, limit: int) -> bool:
    """Whether the first `limit` images (0 = all) have objects, but none of them an outline.

    Ignored objects count only if there are no others.
    """
    count = _objects_of(dataset, limit)
    given, evaluated = dataset.objects.outlines.given[:count], ~dataset.objects.ignored[:count]
    given = given[evaluated] if evaluated.any() else given
    return bool(len(given) and not given.any())


def _limit_warnings(dataset: Dataset, limit: int, max_detections: int, *, per_class: bool) -> list[str]:
    """A warning if an image has more objects (`per_class`: of one class) than the metric counts detections."""
    count = _objects_of(dataset, limit)
    objects = dataset.objects
    images = objects.image_index[:count]
    labels = objects.labels[:count] if per_class else np.zeros(count, dtype=np.int64)
    groups = np.stack([images, labels], axis=1)[~objects.ignored[:count]]
    groups, sizes = np.unique(groups, axis=0, return_counts=True)
    too_many = len(np.unique(groups[sizes > max_detections, 0]))  # images
    if not too_many:
        return []
    largest = int(sizes.max())
    has, of_one_class, and_class = "has" if too_many == 1 else "have", " of one class", " and class"
    return [
        f"{counted(too_many, 'image')} {has} more than {counted(max_detections, 'object')}"
        f"{of_one_class if per_class else ''} (up to {largest}), but at most {counted(max_detections, 'detection')} "
        f"per image{and_class if per_class else ''} {'counts' if max_detections == 1 else 'count'}, so even perfect "
        f"detections would miss some. max_detections={largest} (--max-detections) counts them all"
    ]


def _objects_of(dataset: Dataset, limit: int) -> int:
    """Number of objects in the first `limit` images (0 = all)."""
    images = min(limit, len(dataset)) if limit else len(dataset)
    return int(dataset.objects.starts[images])
