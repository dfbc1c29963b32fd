"""Saved results: detections in COCO's format, read again and scored without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.evaluation.evaluate import Evaluation, Result
from rcnn.evaluation.plan import plan_evaluation
from rcnn.metrics.coco import FIELDS, evaluate
from rcnn.metrics.inputs import check_results, read_json
from rcnn.models.config import COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA


def read_results(path: Path) -> list[Result]:
    """The results in a file: a JSON list, or one list per line (results.jsonl of an evaluation that was stopped)."""
    results = read_json(path)
    if isinstance(results, dict) and {"images", "annotations"} <= results.keys():
        raise ValueError(f"{path} has annotations, not results; give the data set with --data, and a checkpoint")
    if not isinstance(results, list):
        raise ValueError(
            f"{path} has no results; expected a list [{{'image_id': 1, 'category_id': 1, 'score': .9, ..}}]"
        )
    return results


def evaluate_results(path: Path, dataset: Dataset, *, limit: int = 0, max_detections: int | None = None) -> Evaluation:
    """The metrics of saved results on the first `limit` images of `dataset` (0 = all).

    All kinds that every result has a field for are computed: boxes, masks, keypoints.
    """
    results, ground_truth = read_results(path), dataset.to_coco()
    check_results(ground_truth, results, str(dataset.annotation_file), f"{path}: result")
    kinds = [kind for kind in ("bbox", "segm", "keypoints") if _all_have(results, FIELDS[kind])]
    if not kinds:
        raise ValueError(f"{path}: no field is in all results; expected bbox, segmentation or keypoints")
    names: tuple[str, ...] = ()
    sigmas: tuple[float, ...] | None = None
    if "keypoints" in kinds and dataset.objects.keypoints is not None:
        skeleton = skeleton_of(dataset)
        names = skeleton.names
        sigmas = skeleton.sigmas
        if sigmas is None:
            known = names == COCO_KEYPOINTS or (not skeleton.named and len(names) == len(COCO_KEYPOINTS))
            sigmas = COCO_SIGMAS if known else (DEFAULT_SIGMA,) * len(names)
    plan = plan_evaluation(kinds, dataset, limit=limit, max_detections=max_detections, keypoint_names=names)
    count = min(limit, len(dataset)) if limit else len(dataset)
    metrics = evaluate(
        ground_truth,
        results,
        plan.kinds,
        image_ids=dataset.image_ids[:count],
        keypoint_sigmas=sigmas,
        max_detections=max_detections,
    )
    return Evaluation(metrics=metrics, results=results, warnings=plan.warnings)


def _all_have(results: Sequence[Result], field: str) -> bool:
    return all(field in result for result in results)
