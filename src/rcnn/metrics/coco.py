"""COCO's detection metrics (Lin et al. 2014; the definitions of cocodataset.org/#detection-eval).

Truth and results are in COCO's own formats: boxes [x, y, width, height] in pixels of the original image, category ids
of the truth, not our labels. Every number is a fraction 0..1; `None` stands where the truth holds nothing to measure
on (COCO's code prints -1 there), so that no mean is ever taken over it by accident.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.ops.coco_backend import COCO, COCOeval

Number = float | None  # a fraction, or None where the truth holds nothing to measure on
Id = int | str

# kind -> the field of a result that it measures
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints", "proposals": "bbox"}

# name -> (is it precision, IoU threshold or None for the mean over .50:.05:.95, area range, detections per image)
_OBJECT_METRICS: dict[str, tuple[bool, float | None, str, int]] = {
    "AP": (True, None, "all", 100),
    "AP50": (True, 0.5, "all", 100),
    "AP75": (True, 0.75, "all", 100),
    "APs": (True, None, "small", 100),
    "APm": (True, None, "medium", 100),
    "APl": (True, None, "large", 100),
    "AR1": (False, None, "all", 1),
    "AR10": (False, None, "all", 10),
    "AR100": (False, None, "all", 100),
    "ARs": (False, None, "small", 100),
    "ARm": (False, None, "medium", 100),
    "ARl": (False, None, "large", 100),
}
_KEYPOINT_METRICS: dict[str, tuple[bool, float | None, str, int]] = {
    "AP": (True, None, "all", 20),
    "AP50": (True, 0.5, "all", 20),
    "AP75": (True, 0.75, "all", 20),
    "APm": (True, None, "medium", 20),
    "APl": (True, None, "large", 20),
    "AR": (False, None, "all", 20),
    "AR50": (False, 0.5, "all", 20),
    "AR75": (False, 0.75, "all", 20),
    "ARm": (False, None, "medium", 20),
    "ARl": (False, None, "large", 20),
}
_PROPOSAL_METRICS: dict[str, tuple[bool, float | None, str, int]] = {  # of boxes, whose classes are one
    "AR100": (False, None, "all", 100),
    "AR1000": (False, None, "all", 1000),
    "AR1000s": (False, None, "small", 1000),
    "AR1000m": (False, None, "medium", 1000),
    "AR1000l": (False, None, "large", 1000),
}
METRICS = {
    "bbox": _OBJECT_METRICS,
    "segm": _OBJECT_METRICS,
    "keypoints": _KEYPOINT_METRICS,
    "proposals": _PROPOSAL_METRICS,
}
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What an evaluation found. Numbers are fractions 0..1, or None where the truth holds nothing to measure on."""

    kinds: dict[str, dict[str, Number]]  # {"bbox": {"AP": .., "AP50": .., ...}, "segm": {...}}
    per_class: dict[str, dict[str, dict[str, Number]]]  # {"person": {"bbox": {"AP": .., "AP50": ..}, ...}}
    images: int  # images evaluated, those without detections or objects among them
    objects: dict[str, int]  # true objects of each class, crowds not counted
    detections: int  # results evaluated

    def to_dict(self) -> dict[str, Any]:
        """What `metrics.json` holds: one entry a kind, then `per_class` and `counts`, whose `objects` are by class."""
        counts = {"images": self.images, "detections": self.detections, "objects": self.objects}
        return {**self.kinds, "per_class": self.per_class, "counts": counts}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The arrays behind the numbers, -1 where undefined: T=10 IoU thresholds, K categories, A area ranges, M limits."""

    precision: np.ndarray  # (T, 101, K, A, M) float64, at recalls 0, .01, .. 1
    recall: np.ndarray  # (T, K, A, M) float64, the highest reached
    areas: tuple[str, ...]
    limits: tuple[int, ...]


def evaluate(
    truth: Path | str | dict[str, Any],
    results: Sequence[dict[str, Any]],
    kinds: Sequence[str] = ("bbox", "segm"),
    image_ids: Iterable[Id] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
) -> Metrics:
    """COCO's numbers for `results` (COCO results format) against `truth` (a COCO file, or what it holds).

    One result may carry several fields ("bbox" and "segmentation"): each kind sees its own field only, so that sizes
    (APs, APm, APl) are the mask's for "segm" and the box's for "bbox", as when COCO reads a results file of that kind.
    All images of the truth are evaluated, or those of `image_ids`; results of other images of the truth are left out.
    `keypoint_sigmas` are needed where objects have other keypoints than COCO's 17 of a person.

    Raises ValueError for an unknown kind, a result of an image or a category that the truth lacks, a result without
    the field of its kind, a mask of another size than its image, or a truth without any outline or keypoints where
    those are asked for.
    """
    for kind in kinds:
        if kind not in METRICS:
            raise ValueError(f"no evaluation is called {kind!r}; there are {', '.join(METRICS)}")
    data, source = _read_truth(truth)
    chosen = _chosen_images(data, image_ids, source)
    _check_results(data, results, source)
    numbers = {image_id: number for number, image_id in enumerate(chosen, start=1)}
    kept = [result for result in results if result["image_id"] in numbers]
    if "segm" in kinds:
        _check_masks(data, kept, source)
    names = class_names(data)
    metrics: dict[str, dict[str, Number]] = {}
    per_class: dict[str, dict[str, dict[str, Number]]] = {name: {} for name in names.values()}
    for kind in kinds:
        curves = _curves(_prepared(data, numbers, kind, source), _fields(kept, numbers, kind), kind, keypoint_sigmas)
        metrics[kind] = {name: _summary(curves, definition) for name, definition in METRICS[kind].items()}
        for column, name in enumerate(names.values()):
            shown = [m for m in ("AP", "AP50") if m in METRICS[kind]]
            per_class[name][kind] = {m: _summary(curves, METRICS[kind][m], column) for m in shown}
    count = Counter(a["category_id"] for a in data["annotations"] if a["image_id"] in numbers and not a.get("iscrowd"))
    objects = {name: count[category_id] for category_id, name in names.items()}
    return Metrics(kinds=metrics, per_class=per_class, images=len(chosen), objects=objects, detections=len(kept))


def class_names(truth: dict[str, Any]) -> dict[Id, str]:
    """Category id -> name, by ascending id as COCO's arrays are; names used twice are told apart by their id."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    uses = Counter(str(category["name"]) for category in categories)
    return {
        c["id"]: str(c["name"]) if uses[str(c["name"])] == 1 else f"{c['name']} (category {c['id']})"
        for c in categories
    }


def _read_truth(truth: Path | str | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The truth and what to call it in an error."""
    source = "the truth" if isinstance(truth, dict) else str(truth)
    try:
        data = truth if isinstance(truth, dict) else json.loads(Path(truth).read_bytes())
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}); wanted a COCO annotation file") from error
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(data, dict) or k not in data]
    if missing:
        raise ValueError(f"{source} has no {', '.join(missing)}: wanted COCO's images, annotations and categories")
    return data, source


def _chosen_images(data: dict[str, Any], image_ids: Iterable[Id] | None, source: str) -> list[Id]:
    """Ids of the images to evaluate, ascending: COCO's order, which decides between equal scores."""
    known = {image["id"] for image in data["images"]}
    if image_ids is None:
        return _ascending(known)
    chosen = set(image_ids)
    if strangers := _ascending(chosen - known):
        raise ValueError(f"{source} has no image {_few(strangers)}, which `image_ids` asks for")
    return _ascending(chosen)


def _ascending(ids: set[Id]) -> list[Id]:
    return sorted(ids, key=lambda value: (isinstance(value, str), value))


def _few(values: Sequence[object]) -> str:
    shown = ", ".join(repr(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"


def _check_results(data: dict[str, Any], results: Sequence[dict[str, Any]], source: str) -> None:
    for row, result in enumerate(results):
        missing = [name for name in ("image_id", "category_id", "score") if name not in result]
        if missing:
            raise ValueError(f"result {row} has no {', '.join(missing)}; wanted COCO's results format")
        if not math.isfinite(result["score"]):
            raise ValueError(
                f"result {row} (image {result['image_id']!r}) has score {result['score']}; wanted a finite one"
            )
    for field, table in (("image_id", "images"), ("category_id", "categories")):
        strangers = _ascending({result[field] for result in results} - {entry["id"] for entry in data[table]})
        if strangers:
            raise ValueError(
                f"results have {field} {_few(strangers)}, which {source} does not list under {table!r}: "
                "evaluate against the annotation file of the images that were predicted on"
            )


def _check_masks(data: dict[str, Any], results: Sequence[dict[str, Any]], source: str) -> None:
    """COCO's code would give an IoU of 0, and no word, for a mask of another size than the true one."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in data["images"] if "height" in image}
    for row, result in enumerate(results):
        mask, image_id = result.get("segmentation"), result["image_id"]
        if isinstance(mask, dict) and list(mask["size"]) != (size := sizes.get(image_id, list(mask["size"]))):
            raise ValueError(
                f"result {row} (image {image_id!r}) has a mask of (height, width) {tuple(mask['size'])}, but {source} "
                f"says {tuple(size)}: masks are wanted at the size of the original image"
            )


def _prepared(data: dict[str, Any], numbers: dict[Id, int], kind: str, source: str) -> dict[str, Any]:
    """The truth for one kind, images renumbered by `numbers`, annotations from 1 (COCO's code misreads an id of 0)."""
    images = [
        {"id": numbers[image["id"]], "height": image.get("height", 0), "width": image.get("width", 0)}
        for image in data["images"]
        if image["id"] in numbers
    ]
    annotations = []
    # an object without keypoints is none to ask for, but has to have them in COCO's code: none of them given
    numbers_each = max((len(annotation.get("keypoints") or ()) for annotation in data["annotations"]), default=0)
    for annotation in data["annotations"]:
        if annotation["image_id"] not in numbers:
            continue
        entry = {
            "id": len(annotations) + 1,
            "image_id": numbers[annotation["image_id"]],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        if kind == "segm":
            entry["segmentation"] = outline = _outline(annotation.get("segmentation"))
            if outline is None:
                # An object without an outline is neither asked for nor held against a detection: its box is a crowd.
                x, y, width, height = annotation["bbox"]
                corners = [x, y, x, y + height, x + width, y + height, x + width, y]
                entry |= {"iscrowd": 1, "segmentation": [corners], "bare": True}
        elif kind == "keypoints":
            points = annotation.get("keypoints") or [0] * numbers_each
            seen = sum(1 for visibility in points[2::3] if visibility > 0)
            entry |= {"keypoints": points, "num_keypoints": annotation.get("num_keypoints", seen)}
        annotations.append(entry)
    if kind == "segm" and annotations and all("bare" in entry for entry in annotations):
        raise ValueError(f"{source} has no outline in any annotation, so masks cannot be evaluated: ask for bbox only")
    if kind == "keypoints" and annotations and not numbers_each:
        raise ValueError(f"{source} has no keypoints in any annotation: take the person_keypoints file of the split")
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def _outline(segmentation: Any) -> Any:
    """The segmentation without its parts of fewer than three points; None where nothing is left."""
    if isinstance(segmentation, dict):
        return segmentation if segmentation.get("counts") else None
    return [part for part in segmentation or [] if len(part) >= 6] or None


def _fields(results: Sequence[dict[str, Any]], numbers: dict[Id, int], kind: str) -> list[dict[str, Any]]:
    """The results with the one field that `kind` measures, images renumbered."""
    field = FIELDS[kind]
    kept = []
    for row, result in enumerate(results):
        if field not in result:
            raise ValueError(
                f"result {row} (image {result['image_id']!r}) has no {field!r}, which {kind!r} measures: "
                "evaluate the kinds that the model predicts"
            )
        kept.append(
            {
                "image_id": numbers[result["image_id"]],
                "category_id": result["category_id"],
                "score": result["score"],
                field: result[field],
            }
        )
    return kept


def _curves(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str, keypoint_sigmas: Sequence[float] | None
) -> Curves:
    coco = COCO(truth)
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox" if kind == "proposals" else kind)
    if kind == "proposals":
        evaluation.params.maxDets = sorted({limit for *_, limit in _PROPOSAL_METRICS.values()})
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


def _summary(
    curves: Curves, definition: tuple[bool, float | None, str, int], column: int | slice = slice(None)
) -> Number:
    """One of COCO's numbers: the mean over what is defined, of all classes or of that in one `column`."""
    is_precision, threshold, area, limit = definition
    values = curves.precision if is_precision else curves.recall
    values = values[..., column, curves.areas.index(area), curves.limits.index(limit)]
    if threshold is not None:
        values = values[np.isclose(_THRESHOLDS, threshold)]
    values = values[values > -1]
    return float(values.mean()) if values.size else None
