"""LVIS' metrics (Gupta et al. 2019): COCO's average precision for data sets that are not annotated exhaustively.

An image is annotated for the classes of its objects and for the classes in `neg_category_ids`, which it does not
contain. Detections of other classes are dropped. For classes in `not_exhaustive_category_ids`, only some objects are
annotated, so detections without a match are ignored. The 300 best detections of an image count, over all classes.
APr, APc and APf are means over the rare, common and frequent classes (`frequency` r, c and f of the category).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rcnn.metrics.coco import Metric, class_metrics_of, curves_of
from rcnn.metrics.coco_entries import results_of_kind
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
from rcnn.metrics.values import SIZES, Metrics, Number, PerClass
from rcnn.ops.coco_backend import COCO, COCOeval

KINDS = ("bbox", "segm")
MAX_DETECTIONS = 300  # per image, best first, over all classes
FREQUENCIES = ("r", "c", "f")  # rare: objects in up to 10 training images, common: up to 100, frequent: more


def metric_names(max_detections: int | None = None) -> tuple[str, ...]:
    """The names of the metrics of boxes, and of masks."""
    limit = max_detections or MAX_DETECTIONS
    precisions = ("AP", "AP50", "AP75", *(f"AP{size}" for size in SIZES), *(f"AP{one}" for one in FREQUENCIES))
    return (*precisions, f"AR{limit}", *(f"AR{size}" for size in SIZES))


def evaluate(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str] = KINDS,
    image_ids: Iterable[Id] | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """LVIS' metrics of `results` (COCO results format) against `ground_truth` (an LVIS v1 file, or its content).

    `max_detections` replaces the limit of 300 detections per image. Raises ValueError as `metrics.coco.evaluate`, and
    for ground truth without LVIS' `neg_category_ids` or `frequency`; the kinds are bbox and segm.
    """
    require_limit(max_detections)
    inputs = check_inputs(ground_truth, results, kinds, image_ids, KINDS)
    require_federated(inputs)
    limit = max_detections or MAX_DETECTIONS
    kept = best_of_images(inputs.results, limit)
    groups = {one: _categories_of(inputs, one) for one in FREQUENCIES}
    values: dict[str, dict[str, Number]] = {}
    per_class: PerClass = {name: {} for name in inputs.names.values()}
    for kind in kinds:
        truth = COCO(ground_truth_of_kind(inputs, kind))
        found = truth.loadRes(results_of_kind(inputs, kept, kind))
        curves = curves_of(COCOeval(truth, found, kind, lvis_style=True), [limit])
        overall = Metric(True, None, "all", limit)
        values[kind] = {
            "AP": curves.value(overall),
            "AP50": curves.value(overall._replace(iou=0.5)),
            "AP75": curves.value(overall._replace(iou=0.75)),
            **{f"AP{letter}": curves.value(overall._replace(area=size)) for letter, size in SIZES.items()},
            **{f"AP{one}": curves.value(overall, indices) for one, indices in groups.items()},
            f"AR{limit}": curves.value(overall._replace(precision=False)),
            **{f"AR{k}": curves.value(overall._replace(precision=False, area=size)) for k, size in SIZES.items()},
        }
        for name, of_class in curves.of_classes(inputs, class_metrics_of(kind, limit)).items():
            per_class[name][kind] = of_class
    return Metrics(
        kinds=values,
        per_class=per_class,
        images=len(inputs.images),
        objects=inputs.objects(),
        detections=len(inputs.results),
        max_detections=dict.fromkeys(kinds, limit),
        metric="lvis",
    )


def best_of_images(results: Sequence[Entry], limit: int) -> list[Entry]:
    """The `limit` results of each image with the highest scores, over all classes, in the given order."""
    rows: dict[Id, list[int]] = {}
    for row in sorted(range(len(results)), key=lambda row: -results[row]["score"]):  # stable
        rows.setdefault(results[row]["image_id"], []).append(row)
    return [results[row] for row in sorted(row for of_image in rows.values() for row in of_image[:limit])]


def require_federated(inputs: EvaluationInputs) -> None:
    """Raise ValueError if an image has no `neg_category_ids`, or a class with objects has no `frequency`."""
    without = [image["id"] for image in inputs.data["images"] if "neg_category_ids" not in image]
    if without:
        raise ValueError(
            f"{inputs.source}: image {without[0]!r} has no neg_category_ids, which LVIS' metric needs (classes that "
            "the image was searched for and does not contain); evaluate with metric=coco (--metric)"
        )
    used = {annotation["category_id"] for annotation, _ in inputs.annotations}
    for category in inputs.data["categories"]:
        if category["id"] in used and category.get("frequency") not in FREQUENCIES:
            raise ValueError(
                f"{inputs.source}: category {category['id']} has frequency {category.get('frequency')!r}, which LVIS' "
                "APr, APc and APf need; expected r, c or f. Evaluate with metric=coco (--metric)"
            )


def _categories_of(inputs: EvaluationInputs, frequency: str) -> list[int]:
    """The indices, by ascending id, of the categories of a frequency."""
    frequencies = {category["id"]: category.get("frequency") for category in inputs.data["categories"]}
    return [index for index, category_id in enumerate(inputs.names) if frequencies[category_id] == frequency]


def ground_truth_of_kind(inputs: EvaluationInputs, kind: str) -> GroundTruth:
    """The ground truth of one kind; images and annotations numbered from 1."""
    images = inputs.numbered_images(neg_category_ids=[], not_exhaustive_category_ids=[])
    annotations: list[Entry] = []
    without = 0
    for annotation, crowd in inputs.annotations:
        entry = inputs.numbered_annotation(annotation, len(annotations) + 1) | {"iscrowd": 0, "ignore": crowd}
        if kind == "segm":
            outline = outline_of(annotation)
            if outline is None:  # ignored: it is no false negative, and a detection of it is no false positive
                without += 1
                entry["ignore"] = 1
            entry["segmentation"] = outline or box_outline(annotation)
        annotations.append(entry)
    if kind == "segm":
        require_outlines(inputs.source, len(annotations), without)
    return {"images": images, "annotations": annotations, "categories": inputs.data["categories"]}
