"""Checks of ground truth and results in COCO's formats: what is wrong, and where.

COCO's own code accepts a mask of the wrong size, a missing field or an unknown id without a message, and then computes
wrong metrics. Sound entries are recognised by columns, all at once; only where something is odd, they are looked at one
by one, which finds the first that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from rcnn.data.checks.run_lengths import rles_fit
from rcnn.data.messages import excerpt, few

Id: TypeAlias = int | str
Entry: TypeAlias = dict[str, Any]  # an image, annotation, category or result, read from JSON
GroundTruth: TypeAlias = dict[str, Any]  # {"images": [..], "annotations": [..], "categories": [..]}


class ResultError(ValueError):
    """Results that cannot be evaluated; the message does not say where they are from."""


def check_ground_truth(data: GroundTruth, source: str) -> None:
    """Raise ValueError unless images and categories have ids, and annotations refer to them and have valid fields."""
    known: dict[str, set[Any]] = {}
    for table, noun, field in (("images", "image", "image_id"), ("categories", "category", "category_id")):
        for index, entry in enumerate(data[table]):
            if not (isinstance(entry, dict) and _is_id(entry.get("id"), field)):
                raise ValueError(f"{source}: {noun} {index} is {excerpt(entry)}; expected an object with an id")
            if noun == "category" and "name" not in entry:
                raise ValueError(f"{source}: category {excerpt(entry['id'])} has no name")
        known[field] = {entry["id"] for entry in data[table]}
    if not _annotations_are_sound(data["annotations"], known):
        for index, annotation in enumerate(data["annotations"]):
            _check_annotation(annotation, index, known, source)


def _check_annotation(annotation: Any, index: int, known: Mapping[str, set[Any]], source: str) -> None:
    """Raise ValueError for an annotation with a damaged field; `known` are the ids of images and categories."""
    if not isinstance(annotation, dict):
        raise ValueError(f"{source}: annotation {index} is {excerpt(annotation)}; expected an object")
    shown = excerpt(annotation["id"]) if "id" in annotation else f"at index {index}"
    name = f"{source}: annotation {shown}"
    for field, ids in known.items():
        if not _is_id(annotation.get(field), field) or annotation[field] not in ids:
            raise ValueError(f"{name} has {field} {excerpt(annotation.get(field))}, which the file does not list")
    if not _is_box(annotation.get("bbox")):
        raise ValueError(f"{name} has bbox {excerpt(annotation.get('bbox'))}; expected {_BOX}")
    if "area" in annotation and not _finite(annotation["area"]):
        raise ValueError(f"{name} has area {excerpt(annotation['area'])}; expected a finite number")
    points = annotation.get("keypoints")
    if points is not None and not (_numbers(points) and len(points) % 3 == 0):
        raise ValueError(f"{name} has keypoints {excerpt(points)}; expected [x, y, visibility, ...]")


def ascending(ids: set[Id]) -> list[Id]:
    """The ids in ascending order: integers, then strings."""
    return sorted(ids, key=lambda value: (isinstance(value, str), value))


def check_results(data: GroundTruth, results: Sequence[Entry], source: str) -> None:
    """Raise ResultError unless every result has a known image and category, a finite score and valid fields."""
    check_fields(results)
    for field, table in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in data[table]}
        found = {result[field] for result in results}
        if unknown := ascending(found - known):
            raise ResultError(
                f"results have {field} {few_ids(unknown)}, which {source} does not list under {table!r}; it has "
                f"{few_ids(ascending(known)) or 'none'}. Evaluate against the annotation file of the images that were "
                f"predicted on{_advice(field, found, known)}"
            )


def _advice(field: str, found: set[Any], known: set[Any]) -> str:
    """What else can be done about unknown ids; `found` are those of the results."""
    if field == "image_id":
        return ", or give each result the id, or the file name, of its image as image_id"
    for first, shift in ((0, -1), (1, 1)):
        if known and min(known) == first and {one + shift for one in found} <= known:
            how = "subtract 1 from" if shift < 0 else "add 1 to"
            return f"; if the results count the same classes from {1 - first}, {how} each category_id"
    return ""


def check_fields(results: Sequence[Entry]) -> None:
    """Raise ResultError unless every result has an image_id, a category_id, a finite score and valid fields.

    A bbox, segmentation or keypoints of None counts as absent.
    """
    if not _results_are_sound(results):
        for row, result in enumerate(results):
            _check_result(result, f"result {row}")


def _check_result(result: Entry, name: str) -> None:
    if not isinstance(result, dict):
        raise ResultError(f"{name} is {excerpt(result)}; expected an object in COCO's format, {{'image_id': 1, ...}}")
    missing = [field for field in ("image_id", "category_id", "score") if field not in result]
    if missing:
        raise ResultError(f"{name} has no {', '.join(missing)}, which COCO's results format requires")
    name = f"{name} (image {excerpt(result['image_id'])})"
    for field, expected in (("image_id", "an integer or a string"), ("category_id", "an integer")):
        if not _is_id(result[field], field):
            raise ResultError(f"{name} has {field} {excerpt(result[field])}; expected {expected}")
    if not _finite(result["score"]):
        raise ResultError(f"{name} has score {excerpt(result['score'])}; expected a finite number")
    if result.get("bbox") is not None and not _is_box(result["bbox"]):
        raise ResultError(f"{name} has bbox {excerpt(result['bbox'])}; expected {_BOX}")
    points = result.get("keypoints")
    if points is not None and not (_numbers(points) and len(points) % 3 == 0):
        raise ResultError(f"{name} has keypoints {excerpt(points)}; expected [x, y, score, x, y, score, ...]")
    if result.get("segmentation") is not None and not _is_segmentation(result["segmentation"]):
        raise ResultError(
            f"{name} has segmentation {excerpt(result['segmentation'])}; expected RLE "
            "{'size': [height, width], 'counts': ...} or polygons [[x, y, x, y, x, y, ...], ...]"
        )


def check_masks(data: GroundTruth, results: Mapping[int, Entry], source: str) -> None:
    """Raise ResultError for a mask that is empty, damaged, or not of its image's size.

    COCO's code gives such a mask an IoU of 0. Keys of `results` are their rows.
    """
    for row, result in results.items():
        if result["segmentation"] == []:
            raise ResultError(
                f"result {row} (image {excerpt(result['image_id'])}) has a mask without polygons; expected RLE, or "
                "polygons [[x, y, x, y, x, y, ...], ...]. Leave the kind segm out to evaluate boxes only"
            )
    sizes = {
        image["id"]: [image["height"], image["width"]]
        for image in data["images"]
        if {"height", "width"} <= image.keys()
    }
    masks = [(row, result["segmentation"]) for row, result in results.items() if _is_rle(result)]
    expected = [sizes.get(results[row]["image_id"], list(mask["size"])) for row, mask in masks]
    fit = rles_fit([mask for _, mask in masks], np.array(expected, np.int64).reshape(-1, 2))
    for place in np.flatnonzero(~fit).tolist():
        (row, mask), size = masks[place], expected[place]
        name = f"result {row} (image {excerpt(results[row]['image_id'])})"
        if list(mask["size"]) != size:
            raise ResultError(
                f"{name} has a mask of (height, width) {tuple(mask['size'])}, but {source} says {tuple(size)}; "
                "expected masks at the size of the original image"
            )
        raise ResultError(
            f"{name} has a mask with counts {excerpt(mask['counts'])}; expected RLE counts that add up to "
            f"{size[0]} x {size[1]} pixels, or their compressed text"
        )


def _annotations_are_sound(annotations: Sequence[Any], known: Mapping[str, set[Any]]) -> bool:
    """Whether all annotations pass `_check_annotation`; False if that cannot be seen from their columns."""
    if not _types(annotations) <= {dict}:
        return False
    for field, ids in known.items():
        values = [annotation.get(field) for annotation in annotations]
        if not (_types(values) <= _ID_TYPES[field] and set(values) <= ids):
            return False
    areas = [annotation["area"] for annotation in annotations if "area" in annotation]
    points = [annotation["keypoints"] for annotation in annotations if annotation.get("keypoints") is not None]
    boxes = [annotation.get("bbox") for annotation in annotations]
    return _are_boxes(boxes) and _are_finite(areas) and _are_points(points)


def _results_are_sound(results: Sequence[Any]) -> bool:
    """Whether all results pass `_check_result`; False if that cannot be seen from their columns."""
    if not _types(results) <= {dict}:
        return False
    try:
        ids = {field: [result[field] for result in results] for field in _ID_TYPES}
        scores = [result["score"] for result in results]
    except KeyError:
        return False
    boxes, points, masks = (
        [result[field] for result in results if result.get(field) is not None]
        for field in ("bbox", "keypoints", "segmentation")
    )
    return (
        all(_types(values) <= _ID_TYPES[field] for field, values in ids.items())
        and _are_finite(scores)
        and _are_boxes(boxes)
        and _are_points(points)
        and _are_rles(masks)
    )


_ID_TYPES: dict[str, set[type]] = {"image_id": {int, str}, "category_id": {int}}


def _types(values: Iterable[object]) -> set[type]:
    return set(map(type, values))


def _are_finite(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers of Python's own types."""
    try:
        return _types(values) <= {int, float} and bool(np.isfinite(np.array(values, dtype=np.float64)).all())
    except OverflowError:  # an integer beyond float64
        return False


def _are_boxes(values: Sequence[Any]) -> bool:
    if not (_types(values) <= {list, tuple} and set(map(len, values)) <= {4}):
        return False
    numbers = list(chain.from_iterable(values))
    return _are_finite(numbers) and min(numbers[2::4], default=0) >= 0 and min(numbers[3::4], default=0) >= 0


def _are_points(values: Sequence[Any]) -> bool:
    if not _types(values) <= {list, tuple} or any(len(value) % 3 for value in values):
        return False
    return _are_finite(list(chain.from_iterable(values)))


def _are_rles(values: Sequence[Any]) -> bool:
    """Whether all are compressed run lengths with a size; their counts are not read."""
    if not _types(values) <= {dict}:
        return False
    sizes = [value.get("size") for value in values]
    if not (_types(sizes) <= {list, tuple} and set(map(len, sizes)) <= {2}):
        return False
    return _types([value.get("counts") for value in values]) <= {str, bytes} and _are_finite(
        [*chain.from_iterable(sizes)]
    )


_BOX = "[x, y, width, height] with a width and height of 0 or more"


def _is_box(value: Any) -> bool:
    return _numbers(value, 4) and min(value[2:]) >= 0


def _is_id(value: Any, field: str) -> bool:
    """Whether `value` can be an image_id (integer or string) or a category_id (integer)."""
    return isinstance(value, int | str if field == "image_id" else int) and not isinstance(value, bool)


def _is_rle(result: Entry) -> bool:
    return isinstance(result.get("segmentation"), dict)


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        runs = value.get("counts")
        return _numbers(value.get("size"), 2) and (isinstance(runs, str | bytes) or _numbers(runs))
    return isinstance(value, list) and all(_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in value)


def _numbers(value: Any, count: int | None = None) -> bool:
    if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
        return False
    if set(map(type, value)) <= {int, float} and math.isfinite(sum(value)):  # faster than one by one
        return True
    return all(map(_finite, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def few_ids(values: Sequence[object]) -> str:
    """Some of many ids, for a message: text in quotation marks."""
    return few([repr(value) for value in values])
