"""Boundary AP in an evaluation: an early error if it cannot be measured, and its addition to the metrics."""

from __future__ import annotations

from dataclasses import replace

from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Evaluation
from rcnn.metrics.boundary import require_backend, with_boundary

NO_MASKS = "boundary AP is measured on masks, but there are none"


def require_boundary(metric: str, *, has_masks: bool) -> None:
    """Raise ValueError or ImportError if boundary AP cannot be measured; `metric` is empty for the data set's own."""
    if metric not in ("", "coco"):
        raise ValueError(f"boundary AP (--boundary) is COCO's metric with another IoU; leave --metric {metric} out")
    if not has_masks:
        raise ValueError(f"{NO_MASKS}: the model predicts boxes only. Leave --boundary out (boundary=False)")
    require_backend()


def add_boundary(evaluation: Evaluation, dataset: Dataset, max_detections: int | None) -> Evaluation:
    """The evaluation with boundary AP. Raises ValueError if the results or the data set have no masks."""
    metrics = evaluation.metrics
    if "segm" not in metrics.kinds:
        raise ValueError(f"{NO_MASKS} in the results or in {dataset.annotation_file}. Leave --boundary out")
    ids = dataset.image_ids[: metrics.images]
    measured = with_boundary(metrics, dataset.to_coco(), evaluation.results, ids, max_detections)
    return replace(evaluation, metrics=measured)
