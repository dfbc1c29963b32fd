"""Boundary AP in an evaluation: an early error if it cannot be measured, and its addition to the metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Evaluation
from rcnn.evaluation.plan import EvaluationOptions, lacks_outlines
from rcnn.metrics.boundary import require_backend, with_boundary
from rcnn.predictor import Predictor

NO_MASKS = "boundary AP is measured on masks, but there are none"


def require_boundary(source: Predictor | Path, dataset: Dataset, options: EvaluationOptions) -> None:
    """Raise ValueError or ImportError if boundary AP of a predictor, or of saved results, cannot be measured."""
    metric = options.metric
    if metric not in ("", "coco"):
        raise ValueError(f"boundary AP (--boundary) is COCO's metric with another IoU; leave --metric {metric} out")
    if lacks_outlines(dataset, options.limit):
        raise ValueError(f"{NO_MASKS} in {dataset.annotation_file}. Leave --boundary out")
    if isinstance(source, Predictor) and not source.config.has_masks:
        raise ValueError(f"{NO_MASKS}: the model predicts boxes only. Leave --boundary out (boundary=False)")
    require_backend()


def add_boundary(evaluation: Evaluation, dataset: Dataset, max_detections: int | None) -> Evaluation:
    """The evaluation with boundary AP. Raises ValueError if the results or the data set have no masks."""
    metrics = evaluation.metrics
    if "segm" not in metrics.kinds:
        raise ValueError(f"{NO_MASKS} in the results or in {dataset.annotation_file}. Leave --boundary out")
    ids = dataset.image_ids[: metrics.images]
    measured = with_boundary(metrics, evaluation.ground_truth, evaluation.results, ids, max_detections)
    return replace(evaluation, metrics=measured)
