"""Ground truth and results in COCO's formats, checked before the metrics are computed.

COCO's own code accepts a mask of the wrong size, a missing field or an unknown id without a message, and then computes
wrong metrics.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rcnn.data.checks.numbers import flags
from rcnn.data.checks.run_lengths import readable_rles
from rcnn.data.messages import excerpt, few
from rcnn.metrics.values import FIELDS
from rcnn.text_files import read_json

EXPECTED = "expected a file in COCO's format"

Id: TypeAlias = int | str
Entry: TypeAlias = dict[str, Any]  # an image, annotation, category or result, read from JSON
GroundTruth: TypeAlias = dict[str, Any]  # {"images": [..], "annotations": [..], "categories": [..]}


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Ground truth, and the results of the chosen images, all checked."""

    data: GroundTruth
    source: str  # name of the ground truth in error messages
    images: list[Id]  # ids of the chosen images, ascending: COCO's order, which decides between equal scores
    results: list[Entry]  # of these images, in the given order
    names: dict[Id, str]  # category id -> class name, by ascending id
    crowds: list[int]  # 0 or 1 for each annotation

    @property
    def annotations(self) -> list[tuple[Entry, int]]:
        """The annotations of the chosen images, each with 1 for a crowd, else 0."""
        chosen = set(self.images)
        pairs = zip(self.data["annotations"], self.crowds, strict=True)
        return [(annotation, crowd) for annotation, crowd in pairs if annotation["image_id"] in chosen]

    @cached_property
    def image_numbers(self) -> dict[Id, int]:
        """The number of each chosen image, from 1, because COCO's code needs integer ids."""
        return {image_id: number for number, image_id in enumerate(self.images, start=1)}

    def numbered_images(self, **fields: object) -> list[Entry]:
        """The entries of the chosen images for COCO's code: number, size, and `fields` (name -> default value)."""
        defaults = {"height": 0, "width": 0, **fields}
        return [
            {"id": self.image_numbers[image["id"]]} | {name: image.get(name, value) for name, value in defaults.items()}
            for image in self.data["images"]
            if image["id"] in self.image_numbers
        ]

    def numbered_annotation(self, annotation: Entry, number: int) -> Entry:
        """The fields of an annotation that all kinds need, with the id `number`."""
        return {
            "id": number,
            "image_id": self.image_numbers[annotation["image_id"]],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        }

    def objects(self, ignored: str = "") -> dict[str, int]:
        """Number of objects of each class, without crowds and without objects that have the field `ignored` set."""
        count = Counter(
            a["category_id"] for a, crowd in self.annotations if not (crowd or (ignored and a.get(ignored)))
        )
        return {name: count[category_id] for category_id, name in self.names.items()}


def check_inputs(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str],
    image_ids: Iterable[Id] | None,
    known_kinds: Sequence[str] = tuple(FIELDS),
) -> EvaluationInputs:
    """Ground truth and results, checked; only the images of `image_ids` (None: all), and their results.

    Raises ValueError for a kind that is not one of `known_kinds`, an unknown image or category, a damaged field, a
    result without the field of a kind, or a mask of a result that does not have the size of its image.
    """
    for kind in kinds:
        if kind not in known_kinds:
            raise ValueError(f"kind {kind!r} is not known; expected {', '.join(known_kinds)}")
    data, source = read_ground_truth(ground_truth)
    check_ground_truth(data, source)
    images = chosen_images(data, image_ids, source)
    check_results(data, results, source)
    chosen = set(images)
    kept = {row: result for row, result in enumerate(results) if result["image_id"] in chosen}
    for kind in kinds:
        _require_field(kept, kind)
    if "segm" in kinds:
        check_masks(data, kept, source)
    # the string "0" and null count as 0, as when a data set is opened
    crowds = flags([annotation.get("iscrowd", 0) for annotation in data["annotations"]])[0].tolist()
    return EvaluationInputs(
        data=data,
        source=source,
        images=images,
        results=list(kept.values()),
        names=class_names(data),
        crowds=crowds,
    )


def require_limit(max_detections: int | None) -> None:
    """Raise ValueError for a limit of detections below 1; None stands for the metric's own limit."""
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections={max_detections} (--max-detections); expected 1 or more")


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
    """The box of an annotation as a polygon, in place of a missing outline; such an object is ignored."""
    x, y, width, height = annotation["bbox"]
    return [[x, y, x, y + height, x + width, y + height, x + width, y]]


def _require_field(results: Mapping[int, Entry], kind: str) -> None:
    """Raise ValueError for a result without the field that `kind` measures. Keys are the rows of the results."""
    field = FIELDS[kind]
    for row, result in results.items():
        if field not in result:
            raise ValueError(
                f"result {row} (image {result['image_id']!r}) has no {field!r}; expected it in every result for the "
                f"metrics of kind {kind!r}. Add it, or leave this kind out"
            )


def require_outlines(source: str, objects: int, without: int) -> None:
    """Raise ValueError if all of the `objects` are `without` an outline, because masks cannot be evaluated then."""
    if objects and without == objects:
        raise ValueError(f"{source} has no outline in any annotation, so masks cannot be evaluated; use kind bbox only")


def read_ground_truth(ground_truth: Path | str | GroundTruth) -> tuple[GroundTruth, str]:
    """The content of a COCO annotation file, and its name in error messages. ValueError if a table is missing."""
    if isinstance(ground_truth, dict):
        data, source = ground_truth, "the ground truth"
    else:
        data, source = read_json(Path(ground_truth), EXPECTED), str(ground_truth)
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(data, dict) or k not in data]
    if missing:
        raise ValueError(f"{source} has no {', '.join(missing)}; expected COCO's images, annotations and categories")
    return data, source


def read_json_or_lines(path: Path) -> Any:
    """The content of a JSON file, or the concatenated lists of a .jsonl file. ValueError for other content."""
    if path.suffix == ".jsonl":
        with suppress(ValueError, RecursionError):
            return [entry for line in json_lines(path.read_bytes()) for entry in line]
    return read_json(path, EXPECTED)


def json_lines(text: bytes) -> list[Any]:
    """The values of a text with one JSON value per line. ValueError for a line that is not JSON.

    A last line that is not JSON is skipped, because a process that was killed writes an incomplete line.
    """
    *lines, last = text.split(b"\n")
    values = [json.loads(line) for line in lines]
    with suppress(ValueError):
        values.append(json.loads(last))
    return values


def check_ground_truth(data: GroundTruth, source: str) -> None:
    """Raise ValueError unless images and categories have ids, and annotations refer to them and have valid fields."""
    known: dict[str, set[Any]] = {}
    for table, noun, field in (("images", "image", "image_id"), ("categories", "category", "category_id")):
        for index, entry in enumerate(data[table]):
            if not (isinstance(entry, dict) and _is_id(entry.get("id"), field)):
                raise ValueError(f"{source}: {noun} {index} is {excerpt(entry)}; expected an object with an id")
            if noun == "category" and "name" not in entry:
                raise ValueError(f"{source}: category {entry['id']!r} has no name")
        known[field] = {entry["id"] for entry in data[table]}
    for index, annotation in enumerate(data["annotations"]):
        if not isinstance(annotation, dict):
            raise ValueError(f"{source}: annotation {index} is {excerpt(annotation)}; expected an object")
        name = f"{source}: annotation {annotation.get('id', f'at index {index}')!r}"
        for field, ids in known.items():
            if not _is_id(annotation.get(field), field) or annotation[field] not in ids:
                raise ValueError(f"{name} has {field} {excerpt(annotation.get(field))}, which the file does not list")
        if not _is_box(annotation.get("bbox")):
            raise ValueError(f"{name} has bbox {excerpt(annotation.get('bbox'))}; expected {_BOX}")
        if "area" in annotation and not _finite(annotation["area"]):
            raise ValueError(f"{name} has area {excerpt(annotation['area'])}; expected a finite number")
        points = annotation.get("keypoints") or []
        if not (_numbers(points) and len(points) % 3 == 0):
            raise ValueError(f"{name} has keypoints {excerpt(points)}; expected [x, y, visibility, ...]")


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
    """The ids in ascending order: integers, then strings."""
    return sorted(ids, key=lambda value: (isinstance(value, str), value))


def check_results(data: GroundTruth, results: Sequence[Entry], source: str, results_source: str = "result") -> None:
    """Raise ValueError unless every result has a known image and category, a finite score and valid fields."""
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
        raise ValueError(f"{name} is {excerpt(result)}; expected an object in COCO's format, {{'image_id': 1, ...}}")
    missing = [field for field in ("image_id", "category_id", "score") if field not in result]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}, which COCO's results format requires")
    name = f"{name} (image {result['image_id']!r})"
    for field, expected in (("image_id", "an integer or a string"), ("category_id", "an integer")):
        if not _is_id(result[field], field):
            raise ValueError(f"{name} has {field} {excerpt(result[field])}; expected {expected}")
    if not _finite(result["score"]):
        raise ValueError(f"{name} has score {excerpt(result['score'])}; expected a finite number")
    if "bbox" in result and not _is_box(result["bbox"]):
        raise ValueError(f"{name} has bbox {excerpt(result['bbox'])}; expected {_BOX}")
    if "keypoints" in result and not (_numbers(result["keypoints"]) and len(result["keypoints"]) % 3 == 0):
        raise ValueError(
            f"{name} has keypoints {excerpt(result['keypoints'])}; expected [x, y, score, x, y, score, ...]"
        )
    if "segmentation" in result and not _is_segmentation(result["segmentation"]):
        raise ValueError(
            f"{name} has segmentation {excerpt(result['segmentation'])}; expected RLE "
            "{'size': [height, width], 'counts': ...} or polygons [[x, y, x, y, x, y, ...], ...]"
        )


def check_masks(data: GroundTruth, results: Mapping[int, Entry], source: str) -> None:
    """Raise ValueError for a mask that is damaged or has not the size of its image; COCO's code would give an IoU of 0.

    Keys of `results` are their rows.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in data["images"] if "height" in image}
    masks = [(row, result["segmentation"]) for row, result in results.items() if _is_rle(result)]
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
            f"{name} has a mask with counts {excerpt(mask['counts'])}; expected RLE counts that add up to "
            f"{size[0]} x {size[1]} pixels, or their compressed text"
        )


_BOX = "[x, y, width, height] with a width and height of 0 or more"


def _is_box(value: Any) -> bool:
    return _numbers(value, 4) and min(value[2:]) >= 0


def _is_id(value: Any, field: str) -> bool:
    """Whether `value` can be an image_id (integer or string) or a category_id (integer)."""
    return isinstance(value, int | str if field == "image_id" else int) and not isinstance(value, bool)


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
    if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
        return False
    if set(map(type, value)) <= {int, float} and math.isfinite(sum(value)):  # faster than one by one
        return True
    return all(map(_finite, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _few(values: Sequence[object]) -> str:
    return few([repr(value) for value in values])
