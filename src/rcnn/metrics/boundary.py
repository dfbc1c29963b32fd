"""Boundary AP (Cheng et al. 2021, https://arxiv.org/abs/2103.16562): COCO's metrics of masks, stricter at the outline.

The IoU of a detection and an object is the minimum of their mask IoU and their boundary IoU. The boundary IoU counts
only pixels of each mask that are near its outline, within 2% of the image's diagonal. faster-coco-eval (an extra)
computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcnn.metrics import coco
from rcnn.metrics.coco_entries import ground_truth_of_kind, results_of_kind
from rcnn.metrics.inputs import Entry, GroundTruth, Id, check_inputs
from rcnn.metrics.values import Metrics
from rcnn.ops.coco_backend import as_compressed

KIND = "boundary"
INSTALL = "boundary AP needs an extra: pip install 'rcnn[boundary]'"


def require_backend() -> None:
    """Raise ImportError, with the command to install it, if faster-coco-eval is missing."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        raise ImportError(INSTALL) from error


def with_boundary(
    metrics: Metrics,
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    image_ids: Iterable[Id] | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """`metrics` with the additional kind "boundary", overall and per class; arguments as in `metrics.coco.evaluate`.

    Raises ImportError without faster-coco-eval, ValueError as `metrics.coco.evaluate` for "segm".
    """
    require_backend()
    from faster_coco_eval import COCO, COCOeval_faster

    inputs = check_inputs(ground_truth, results, ("segm",), image_ids)
    gold = COCO(ground_truth_of_kind(inputs, "segm"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in inputs.numbered_images()}
    found = results_of_kind(inputs, inputs.results, "segm")
    for result in found:  # faster-coco-eval reads no polygons and no uncompressed run lengths in results
        result["segmentation"] = as_compressed(result["segmentation"], *sizes[result["image_id"]])
    definitions = coco.metrics_of("segm", max_detections)
    evaluation = COCOeval_faster(gold, gold.loadRes(found), KIND, boundary_cpu_count=1)
    evaluation.params.maxDets = sorted({metric.limit for metric in definitions.values()})
    evaluation.evaluate()
    evaluation.accumulate()
    curves = coco.Curves(
        precision=np.asarray(evaluation.eval["precision"]),
        recall=np.asarray(evaluation.eval["recall"]),
        areas=tuple(evaluation.params.areaRngLbl),
        limits=tuple(evaluation.params.maxDets),
    )
    values = {name: curves.value(metric) for name, metric in definitions.items()}
    of_classes = curves.of_classes(inputs, coco.class_metrics_of("segm", max_detections))
    per_class = {name: metrics.per_class[name] | {KIND: of_class} for name, of_class in of_classes.items()}
    limits = metrics.max_detections | {KIND: max(metric.limit for metric in definitions.values())}
    return replace(metrics, kinds=metrics.kinds | {KIND: values}, per_class=per_class, max_detections=limits)
