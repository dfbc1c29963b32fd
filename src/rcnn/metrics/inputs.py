"""Ground truth and results in COCO's formats, checked before anything is computed from them.

COCO's own code accepts a mask of the wrong size, a missing field or an unknown id without a message, and then gives
wrong numbers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rcnn.data.checks.numbers import flags
from rcnn.data.checks.run_lengths import readable_rles
from rcnn.data.messages import few
from rcnn.metrics.values import FIELDS

Id: TypeAlias = int | str
Entry: TypeAlias = dict[str, Any]  # an image, annotation, category or result, read from JSON
GroundTruth: TypeAlias = dict[str, Any]  # {"images": [..], "annotations": [..], "categories": [..]}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Ground truth, and the results of the chosen images, all checked."""

    data: GroundTruth
    source: str  # what error messages call the ground truth
    images: list[Id]  # the chosen ones, ascending: COCO's order, which decides between equal scores
    results: list[Entry]  # of these images, in the order given
    names: dict[Id, str]  # category id -> class name, by ascending id
    crowds: list[int]  # 0 or 1 for each annotation

    @property
    def annotations(self) -> list[tuple[Entry, int]]:
        """The annotations of the chosen images, each with 0, or 1 for a crowd."""
        chosen = set(self.images)
        pairs = zip(self.data["annotations"], self.crowds, strict=True)
        return [(annotation, crowd) for annotation, crowd in pairs if annotation["image_id"] in chosen]

    def objects(self, ignored: str = "") -> dict[str, int]:
        """Number of objects of each class; without crowds, and without those whose field `ignored` is set."""
        count = Counter(a["category_id"] for a, crowd in self.annotations if not crowd and not a.get(ignored))
        return {name: count[category_id] for category_id, name in self.names.items()}


def check_inputs(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str],
    image_ids: Iterable[Id] | None,
    known_kinds: Sequence[str] = tuple(FIELDS),
) -> Checked:
    """Ground truth and results, checked; only the images of `image_ids` (None: all), and their results.

    Raises ValueError for a kind that is not one of `known_kinds`, an unknown image or category, a damaged field, or a
    mask that does not have the size of its image.
    """
    for kind in kinds:
        if kind not in known_kinds:
            raise ValueError(f"kind {kind!r} is not known; expected {', '.join(known_kinds)}")
    data, source = read_ground_truth(ground_truth)
    images = chosen_images(data, image_ids, source)
    check_results(data, results, source)
    chosen = set(images)
    kept = [result for result in results if result["image_id"] in chosen]
    if "segm" in kinds:
        check_masks(data, kept, source)
    # the text "0" and null are 0, as when a data set is opened
    crowds = flags([annotation.get("iscrowd", 0) for annotation in data["annotations"]])[0].tolist()
    return Checked(data=data, source=source, images=images, results=kept, names=class_names(data), crowds=crowds)


def class_names(data: GroundTruth) -> dict[Id, str]:
    """Category id -> name, by ascending id as in COCO's arrays; names that occur twice get their id."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    uses = Counter(str(category["name"]) for category in categories)
    return {
        c["id"]: str(c["name"]) if uses[str(c["name"])] == 1 else f"{c['name']} (category {c['id']})"
        for c in categories
    }


def outline_of(annotation: Entry) -> Any:
    """The segmentation of an annotation, without parts of fewer than three points; None if nothing remains."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return segmentation if segmentation.get("counts") else None
    return [part for part in segmentation or [] if len(part) >= 6] or None


def box_outline(annotation: Entry) -> list[list[float]]:
    """The box of an annotation as a polygon: it stands for an outline that is missing, and is then ignored."""
    x, y, width, height = annotation["bbox"]
    return [[x, y, x, y + height, x + width, y + height, x + width, y]]


def required_field(result: Entry, row: int, kind: str) -> Any:
    """The field of a result that `kind` measures; a ValueError names the result if it has none."""
    field = FIELDS[kind]
    if field not in result:
        raise ValueError(
            f"result {row} (image {result['image_id']!r}) has no {field!r}, which the metrics of kind {kind!r} "
            "need; leave that kind out"
        )
    return result[field]


def require_outlines(source: str, objects: int, without: int) -> None:
    """A ValueError if none of the `objects` has an outline: masks cannot be evaluated."""
    if objects and without == objects:
        raise ValueError(f"{source} has no outline in any annotation, so masks cannot be evaluated; use kind bbox only")


def read_ground_truth(ground_truth: Path | str | GroundTruth) -> tuple[GroundTruth, str]:
    """The content of a COCO annotation file, and its name in error messages."""
    if isinstance(ground_truth, dict):
        data, source = ground_truth, "the ground truth"
    else:
        data, source = read_json(Path(ground_truth)), str(ground_truth)
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(data, dict) or k not in data]
    if missing:
        raise ValueError(f"{source} has no {', '.join(missing)}; expected COCO's images, annotations and categories")
    return data, source


def read_json(path: Path) -> Any:
    """The content of a JSON file, or of one with a JSON list per line. ValueError if it is neither."""
    text = path.read_bytes()
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if path.suffix != ".jsonl":
                raise
            *lines, _unfinished = text.split(b"\n")  # a process that was killed leaves a line without its end
            return [entry for line in lines for entry in json.loads(line)]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected a file in COCO's format") from error


def chosen_images(data: GroundTruth, image_ids: Iterable[Id] | None, source: str) -> list[Id]:
    """Ids of the images to evaluate, ascending: COCO's order, which decides between equal scores."""
    known = {image["id"] for image in data["images"]}
    if image_ids is None:
        return ascending(known)
    chosen = set(image_ids)
    if unknown := ascending(chosen - known):
        raise ValueError(f"{source} has no image {_few(unknown)}, which `image_ids` names")
    return ascending(chosen)


def ascending(ids: set[Id]) -> list[Id]:
    """Ids in order: numbers, then text."""
    return sorted(ids, key=lambda value: (isinstance(value, str), value))


def check_results(data: GroundTruth, results: Sequence[Entry], source: str, results_source: str = "result") -> None:
    """Raise ValueError unless every result has a known image and category, a finite score and sound fields."""
    for row, result in enumerate(results):
        _check_result(result, f"{results_source} {row}")
    for field, table in (("image_id", "images"), ("category_id", "categories")):
        unknown = ascending({result[field] for result in results} - {entry["id"] for entry in data[table]})
        if unknown:
            raise ValueError(
                f"results have {field} {_few(unknown)}, which {source} does not list under {table!r}; evaluate against "
                "the annotation file of the images that were predicted on"
            )


def _check_result(result: Entry, name: str) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"{name} is {_excerpt(result)}; expected an object in COCO's format, {{'image_id': 1, ...}}")
    missing = [field for field in ("image_id", "category_id", "score") if field not in result]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}, which COCO's results format requires")
    name = f"{name} (image {result['image_id']!r})"
    for field in ("image_id", "category_id"):
        if isinstance(result[field], bool) or not isinstance(result[field], int | str):
            raise ValueError(f"{name} has {field} {_excerpt(result[field])}; expected a whole number or text")
    if not _finite(result["score"]):
        raise ValueError(f"{name} has score {_excerpt(result['score'])}; expected a finite number")
    if "bbox" in result and not (_numbers(result["bbox"], 4) and min(result["bbox"][2:]) >= 0):
        raise ValueError(
            f"{name} has bbox {_excerpt(result['bbox'])}; expected [x, y, width, height] with a width and height of "
            "0 or more"
        )
    if "keypoints" in result and not (_numbers(result["keypoints"]) and len(result["keypoints"]) % 3 == 0):
        raise ValueError(
            f"{name} has keypoints {_excerpt(result['keypoints'])}; expected [x, y, score, x, y, score, ...]"
        )
    if "segmentation" in result and not _is_segmentation(result["segmentation"]):
        raise ValueError(
            f"{name} has segmentation {_excerpt(result['segmentation'])}; expected run lengths "
            "{'size': [height, width], 'counts': ...} or polygons [[x, y, x, y, x, y, ...], ...]"
        )


def check_masks(data: GroundTruth, results: Sequence[Entry], source: str) -> None:
    """Raise ValueError for a mask that is damaged or not of the size of its image: COCO's code would call its IoU 0."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in data["images"] if "height" in image}
    masks = [(row, result["segmentation"]) for row, result in enumerate(results) if _is_rle(result)]
    expected = [sizes.get(results[row]["image_id"], list(mask["size"])) for row, mask in masks]
    readable = readable_rles([_as_text(mask) for _, mask in masks], np.array(expected, np.int64).reshape(-1, 2))
    for (row, mask), size, found in zip(masks, expected, readable, strict=True):
        if found is not None:
            continue
        name = f"result {row} (image {results[row]['image_id']!r})"
        if list(mask["size"]) != size:
            raise ValueError(
                f"{name} has a mask of (height, width) {tuple(mask['size'])}, but {source} says {tuple(size)}; "
                "expected masks at the size of the original image"
            )
        raise ValueError(
            f"{name} has a mask with counts {_excerpt(mask['counts'])}; expected run lengths that add up to "
            f"{size[0]} x {size[1]} pixels, or their compressed text"
        )


def _is_rle(result: Entry) -> bool:
    return isinstance(result.get("segmentation"), dict)


def _as_text(mask: Entry) -> Entry:
    counts = mask["counts"]
    return {**mask, "counts": counts.decode("ascii", "replace")} if isinstance(counts, bytes) else mask


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        runs = value.get("counts")
        return _numbers(value.get("size"), 2) and (isinstance(runs, str | bytes) or _numbers(runs))
    return isinstance(value, list) and all(_numbers(part) and len(part) >= 6 for part in value)


def _numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, (list, tuple)) and count in (None, len(value)) and all(map(_finite, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _few(values: Sequence[object]) -> str:
    return few([repr(value) for value in values])


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
