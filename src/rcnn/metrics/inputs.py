"""Ground truth and results in COCO's formats, checked before the metrics are computed."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rcnn.arguments import LARGEST, is_whole_number, shown
from rcnn.data.checks.numbers import flags
from rcnn.metrics.checks import (
    Entry,
    GroundTruth,
    Id,
    ResultError,
    ascending,
    check_ground_truth,
    check_masks,
    check_results,
    few_ids,
)
from rcnn.metrics.values import FIELDS
from rcnn.text_files import OTHER_ENCODING, NotUnicodeError, read_json, require_file

EXPECTED = "expected a file in COCO's format"


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Ground truth, and the results of the chosen images, all checked."""

    data: GroundTruth
    source: str  # name of the ground truth in error messages
    images: list[Id]  # ids of the chosen images, ascending: COCO's order, which decides between equal scores
    results: list[Entry]  # of these images, in the given order
    names: dict[Id, str]  # category id -> class name, by ascending id
    crowds: list[int]  # 0 or 1 for each annotation

    @cached_property
    def annotations(self) -> list[tuple[Entry, int]]:
        """The annotations of the chosen images, each with 1 for a crowd, else 0."""
        chosen = set(self.images)
        pairs = zip(self.data["annotations"], self.crowds, strict=True)
        return [(annotation, crowd) for annotation, crowd in pairs if annotation["image_id"] in chosen]

    @cached_property
    def image_numbers(self) -> dict[Id, int]:
        """The number of each chosen image, from 1, because COCO's code needs integer ids."""
        return {image_id: number for number, image_id in enumerate(self.images, start=1)}

    @cached_property
    def keypoint_count(self) -> int:
        """The number of keypoints of the first object that has any; 0: none has."""
        return next((len(a["keypoints"]) // 3 for a, _ in self.annotations if a.get("keypoints")), 0)

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


def check_truth(
    ground_truth: Path | str | GroundTruth,
    kinds: Sequence[str],
    image_ids: Iterable[Id] | None,
    known_kinds: Sequence[str] = tuple(FIELDS),
) -> EvaluationInputs:
    """Ground truth, checked, for results that are not there yet; only the images of `image_ids` (None: all).

    Raises ValueError for a kind that is not one of `known_kinds`, an unknown image or category, or a damaged field.
    """
    for kind in kinds:
        if kind not in known_kinds:
            raise ValueError(f"kind {kind!r} is not known; expected {', '.join(known_kinds)}")
    data, source = read_ground_truth(ground_truth)
    check_ground_truth(data, source)
    return _inputs_of(data, source, image_ids)


def _inputs_of(data: GroundTruth, source: str, image_ids: Iterable[Id] | None) -> EvaluationInputs:
    """The inputs without results."""
    # the string "0" and null count as 0, as when a data set is opened
    crowds = flags([annotation.get("iscrowd", 0) for annotation in data["annotations"]])[0].tolist()
    images = chosen_images(data, image_ids, source)
    return EvaluationInputs(data=data, source=source, images=images, results=[], names=class_names(data), crowds=crowds)


def check_inputs(
    ground_truth: Path | str | GroundTruth,
    results: Sequence[Entry],
    kinds: Sequence[str],
    image_ids: Iterable[Id] | None,
    known_kinds: Sequence[str] = tuple(FIELDS),
) -> EvaluationInputs:
    """Ground truth and results, checked; only the images of `image_ids` (None: all), and their results.

    Raises ValueError as `check_truth`, and ResultError for a result with an unknown image or category, a damaged field
    or without the field of a kind, or a mask of a result that does not have the size of its image.
    """
    inputs = check_truth(ground_truth, kinds, image_ids, known_kinds)
    check_results(inputs.data, results, inputs.source)
    chosen = set(inputs.images)
    kept = {row: result for row, result in enumerate(results) if result["image_id"] in chosen}
    for kind in kinds:
        _require_field(kept, kind)
    if "segm" in kinds:
        check_masks(inputs.data, kept, inputs.source)
    return replace(inputs, results=list(kept.values()))


def checked_inputs(
    ground_truth: Path | str | GroundTruth, results: Sequence[Entry], image_ids: Iterable[Id] | None
) -> EvaluationInputs:
    """What `check_inputs` returns, for ground truth and results that were checked before."""
    data, source = read_ground_truth(ground_truth)
    inputs = _inputs_of(data, source, image_ids)
    chosen = set(inputs.images)
    return replace(inputs, results=[result for result in results if result["image_id"] in chosen])


def require_limit(max_detections: int | None) -> None:
    """Raise ValueError for a limit of detections below 1; None stands for the metric's own limit."""
    if max_detections is not None and not (is_whole_number(max_detections) and 1 <= max_detections <= LARGEST):
        raise ValueError(f"max_detections={shown(max_detections, 60)} (--max-detections); expected 1 or more")


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
    """Raise ResultError for a result without the field that `kind` measures. Keys are the rows of the results."""
    field = FIELDS[kind]
    for row, result in results.items():
        if result.get(field) is None:
            raise ResultError(
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
        data, source = read_json(Path(ground_truth), EXPECTED, given=True), str(ground_truth)
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(data, dict) or k not in data]
    if missing:
        raise ValueError(f"{source} has no {', '.join(missing)}; expected COCO's images, annotations and categories")
    return data, source


def read_json_or_lines(path: Path, *, unfinished: bool = False) -> Any:
    """The content of a JSON file, or the entries of JSON lines: one per line, or a list of them per line.

    The content decides, not the name of the file. `unfinished` as for `json_lines`. ValueError for other content.
    """
    require_file(path, given=True)
    if path.suffix != ".jsonl":
        try:
            return read_json(path, EXPECTED)
        except NotUnicodeError:
            raise
        except ValueError:
            if not _begins_with_a_line(path):
                raise
    try:
        content = in_utf8(path.read_bytes())
    except UnicodeDecodeError as error:
        raise NotUnicodeError(f"{path} is {OTHER_ENCODING}") from error
    try:
        lines = json_lines(content, unfinished=unfinished)
    except (ValueError, RecursionError):
        if number := _broken_line(content):
            raise ValueError(f"{path} is not JSON in line {number}; expected a result, or a list, per line") from None
        return read_json(path, EXPECTED)  # one value in several lines
    return [entry for line in lines for entry in (line if isinstance(line, list) else [line])]


def _begins_with_a_line(path: Path) -> bool:
    """Whether the first of several lines is a JSON object or list of its own, as in JSON lines."""
    try:
        first, *rest = in_utf8(path.read_bytes()).strip().split(b"\n", 1)
        return bool(rest) and isinstance(json.loads(first), (dict, list))
    except (ValueError, RecursionError):
        return False


def _broken_line(content: bytes) -> int:
    """The number of the first line that is not JSON, from 1; 0 if it is the first that is not blank.

    That is a value in several lines.
    """
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    for number, line in lines:
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return 0 if number == lines[0][0] else number
    return 0


def in_utf8(content: bytes) -> bytes:
    """The content of a JSON file in UTF-8, without a byte order mark: JSON may be in UTF-16 or UTF-32, too.

    UnicodeDecodeError for bytes that are not in that encoding. UTF-8 is not checked: the last line may be cut short.
    """
    encoding = json.detect_encoding(content)
    if encoding.startswith("utf-8"):
        return content.removeprefix(codecs.BOM_UTF8)
    return content.decode(encoding).encode()


def json_lines(text: bytes, *, unfinished: bool) -> list[Any]:
    """The values of a text in UTF-8 with one JSON value per line; blank lines are skipped. ValueError for other lines.

    `unfinished`: a last line that is not JSON is skipped, because a process that was killed writes an incomplete line.
    """
    *lines, last = text.split(b"\n")
    values = [json.loads(line) for line in lines if line.strip()]
    with suppress(ValueError) if unfinished else nullcontext():
        values += [json.loads(last)] if last.strip() else []
    return values


def chosen_images(data: GroundTruth, image_ids: Iterable[Id] | None, source: str) -> list[Id]:
    """Ids of the images to evaluate, ascending: COCO's order, which decides between equal scores."""
    known = {image["id"] for image in data["images"]}
    if image_ids is None:
        return ascending(known)
    chosen = set(image_ids)
    if unknown := ascending(chosen - known):
        raise ValueError(f"{source} has no image {few_ids(unknown)}, which `image_ids` names")
    return ascending(chosen)
