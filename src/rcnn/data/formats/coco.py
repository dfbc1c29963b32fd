"""COCO annotations (images, annotations, categories) -> Dataset: every field checked, what cannot be learnt left out.

What makes a file wrong as a whole (ids used twice, an image or a category that is not listed, run lengths of another
size) is an error. What is wrong in single objects (an empty box, a polygon of two points) is left out of the records,
told in `Dataset.warnings`, and still there when the truth is evaluated against: one slip in a hundred thousand images
must neither stop a training nor change its measure.

Letters: I images, A objects, K classes, J keypoints.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.images import image_size
from rcnn.data.records import Dataset, Id, Objects
from rcnn.data.segmentations import complete, pack_outlines, where
from rcnn.data.warnings import Findings, close_to, few

Table = dict[str, Any]


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for garbage within: among the millions of lists of a large file, all in use, it takes half the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises ValueError where it is damaged, OSError where it cannot be read."""
    try:
        with collector_paused():
            return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not JSON ({error}): it may be cut short or another kind of file; export or copy it again"
        ) from error


def read_annotations(file: Path, sizes: dict[Any, tuple[int, int]]) -> list[Table]:
    """All annotations of a COCO file, boxes and areas filled in; `sizes` are (height, width) by image id."""
    annotations = read_json(file)["annotations"]
    complete(annotations, sizes, file)
    return annotations


def coco_dataset(
    data: Any,
    *,
    root: Path,
    split: str,
    file: Path,
    folders: Sequence[Path],
    classes: Sequence[str] | None = None,
    ignore_others: bool = False,
    reader: Callable[[Path, dict[Any, tuple[int, int]]], list[Table]] = read_annotations,
) -> Dataset:
    """The data set of what `file` holds, its images in the first of `folders` that has any of them.

    `classes` give the labels their order; without them it is that of ascending category ids. `ignore_others` leaves out
    objects of other classes. `reader` reads the annotations again, for evaluation. Raises ValueError for what is wrong
    in the file, FileNotFoundError for missing images.
    """
    _check_tables(data, file)
    images, annotations = data["images"], data["annotations"]
    names, category_ids, categories = _labels(data["categories"], annotations, classes, ignore_others, file)
    if ignore_others:
        ours = set(category_ids)
        annotations = [annotation for annotation in annotations if annotation["category_id"] in ours]
    file_names = tuple(str(image["file_name"]) for image in images)
    folder = find_images(file_names, folders, file)
    image_ids = tuple(image["id"] for image in images)
    sizes = [_size(image, folder, file) for image in images]
    by_id = dict(zip(image_ids, sizes, strict=True))
    complete(annotations, by_id, file)
    findings = Findings(file)
    objects = _objects(annotations, image_ids, sizes, category_ids, findings, file)
    return Dataset(
        root=root,
        split=split,
        annotation_file=file,
        folder=folder,
        classes=names,
        category_ids=category_ids,
        image_ids=image_ids,
        file_names=file_names,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        objects=objects,
        categories=categories,
        read_annotations=partial(reader, file, by_id),
        warnings=findings.lines(),
    )


def _check_tables(data: Any, file: Path) -> None:
    """Raise unless there are COCO's three tables, each entry with its fields, each id used once and known."""
    tables = ("images", "annotations", "categories")
    missing = [name for name in tables if not isinstance(data, dict) or not isinstance(data.get(name), list)]
    if missing:
        holds = few(sorted(map(str, data))) if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ValueError(
            f"{file} is not a COCO annotation file: it has no list {', '.join(missing)} (it holds "
            f"{holds or 'nothing'}); wanted an object with images, annotations and categories, or a VIA export"
        )
    fields = (("id", "file_name"), ("id", "image_id", "category_id"), ("id", "name"))
    for name, wanted in zip(tables, fields, strict=True):
        for place, entry in enumerate(data[name]):
            if not isinstance(entry, dict) or not entry.keys() >= set(wanted):
                lacks = ", ".join(f for f in wanted if not isinstance(entry, dict) or f not in entry)
                raise ValueError(f"{file}: entry {place} (from 0) of {name} has no {lacks}: {str(entry)[:80]}")
        _check_ids([entry["id"] for entry in data[name]], name, file)
    if not data["images"]:
        raise ValueError(f"{file} lists no images: there is nothing to learn or to measure; export the split again")
    if not data["categories"]:
        raise ValueError(f"{file} lists no categories: wanted at least one, {{'id': 1, 'name': ...}}")
    for name, table in (("image", "images"), ("category", "categories")):
        known = {entry["id"] for entry in data[table]}
        field = f"{name}_id"
        strangers = [
            a for a in data["annotations"] if not isinstance(a[field], (int, float, str)) or a[field] not in known
        ]
        _check_known(strangers, name, known, file)


def _check_ids(ids: list[Any], table: str, file: Path) -> None:
    kinds = (int,) if table == "categories" else (int, str)
    for place, value in enumerate(ids):
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = "a whole number" if table == "categories" else "a whole number or text"
            raise ValueError(f"{file}: entry {place} (from 0) of {table} has the id {value!r}; wanted {wanted}")
    if len(set(ids)) < len(ids):
        twice = [value for value, uses in Counter(ids).items() if uses > 1]
        raise ValueError(
            f"{file}: {len(twice)} ids of {table} are used more than once ({few(twice)}): give each entry its own; "
            "files that were joined need their ids renumbered"
        )


def _check_known(strangers: list[Table], name: str, known: set[Any], file: Path) -> None:
    if strangers:
        first = strangers[0]
        ids = few([annotation["id"] for annotation in strangers])
        raise ValueError(
            f"{file}: {len(strangers)} annotations (id {ids}) have {'an' if name == 'image' else 'a'} {name}_id that "
            f"the file does not list, as {first[f'{name}_id']!r} of annotation {first['id']}; it lists "
            f"{few(sorted(known, key=lambda v: (isinstance(v, str), v)))}: add the {name}, or take the annotations out"
        )


def _labels(
    categories: list[Table],
    annotations: list[Table],
    classes: Sequence[str] | None,
    ignore_others: bool,
    file: Path,
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Table, ...]]:
    """Names, category ids and category entries by label; a class that only `classes` knows gets an id not in use."""
    entries = sorted(categories, key=lambda category: category["id"])
    uses = Counter(str(category["name"]) for category in entries)
    named: dict[str, Table] = {}
    for category in entries:
        name = str(category["name"])
        unique = name if uses[name] == 1 else f"{name} (category {category['id']})"
        named[unique] = category | {"name": unique}
    if classes is None:
        return tuple(named), tuple(entry["id"] for entry in named.values()), tuple(named.values())
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes holds a name twice: {few([n for n, uses in Counter(classes).items() if uses > 1])}")
    used = {annotation["category_id"] for annotation in annotations}
    strangers = [name for name, entry in named.items() if entry["id"] in used and name not in set(classes)]
    if strangers and not ignore_others:
        raise ValueError(
            f"{file} has objects of {len(strangers)} classes that are not among the {len(classes)} asked for: "
            f"{', '.join(repr(name) + close_to(name, classes) for name in strangers[:5])}; these are {few(classes)}. "
            "Rename the categories in the file to those names, leave the others out (`rcnn eval "
            "--ignore-other-classes`), or train on this data set to have its classes"
        )
    free = max(entry["id"] for entry in entries) + 1
    chosen = [named.get(name) or {"id": free + place, "name": name} for place, name in enumerate(classes)]
    return tuple(classes), tuple(entry["id"] for entry in chosen), tuple(chosen)


def find_images(names: Sequence[str], folders: Sequence[Path], file: Path) -> Path:
    """The first of `folders` with any of the images `names`. Raises FileNotFoundError unless it has them all."""
    best: tuple[Path, list[str]] | None = None
    for folder in folders:
        missing = _missing(names, folder)
        if len(missing) < len(names):
            best = folder, missing
            break
    if best is None:
        raise FileNotFoundError(
            f"{file} lists {len(names)} images ({few(names)}), none of them in {few([str(f) for f in folders])}: "
            "copy them there"
        )
    folder, missing = best
    if missing:
        raise FileNotFoundError(
            f"{file}: {len(missing)} of its {len(names)} images are not in {folder}: {few(missing)}; copy them there, "
            "or take them out of the file"
        )
    return folder


def _missing(names: Iterable[str], folder: Path) -> list[str]:
    """Those of `names` that are no files of `folder`, by listing each folder they lie in once."""
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        wanted[os.path.dirname(name)].append(name)
    missing = []
    for inner, inside in wanted.items():
        try:
            there = set(os.listdir(folder / inner))
        except OSError:
            there = set()
        missing += [name for name in inside if os.path.basename(name) not in there]
    return missing


def _size(image: Table, folder: Path, file: Path) -> tuple[int, int]:
    """Height and width of an image, by its entry or else by its file."""
    height, width = image.get("height"), image.get("width")
    if not height or not width:
        return image_size(folder / image["file_name"])
    if not all(isinstance(side, (int, float)) and side > 0 and side == int(side) for side in (height, width)):
        raise ValueError(
            f"{file}: image {image['id']} ({image['file_name']}) has height {height!r} and width {width!r}; "
            "wanted pixels, or neither to have them read from the image"
        )
    return int(height), int(width)


def _objects(
    annotations: list[Table],
    image_ids: Sequence[Id],
    sizes: Sequence[tuple[int, int]],
    category_ids: Sequence[int],
    findings: Findings,
    file: Path,
) -> Objects:
    """The objects that can be learnt, in the order of the images."""
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    image = np.array([place[a["image_id"]] for a in annotations], dtype=np.int64)
    order = np.argsort(image, kind="stable")
    annotations, image = [annotations[i] for i in order.tolist()], image[order]
    height, width = np.array(sizes, dtype=np.float64).reshape(-1, 2)[image].T

    boxes = _numbers(annotations, "bbox", 4, file)  # (A, 4) x, y, width, height
    ids = np.array([a["id"] for a in annotations] or [0], dtype=object)[: len(annotations)]
    boxes[:, 2:] += boxes[:, :2]
    x1, y1, x2, y2 = boxes.T
    solid = np.isfinite(boxes).all(axis=1) & (x2 > x1) & (y2 > y1)
    clipped = np.stack([x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height)], axis=1)
    clipped = clipped.astype(np.float32)
    inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    left_out = "left out of training, kept in evaluation"
    findings.add("a box of no size", left_out, ids[~solid].tolist())
    findings.add("a box outside the image", left_out, ids[solid & ~inside].tolist())
    kept = solid & inside
    beyond = kept & (np.abs(boxes - clipped) > 1).any(axis=1)  # rounding goes a little over the edge in most files
    findings.add("a box partly outside the image", "cut at the image's edge for training", ids[beyond].tolist())

    annotations = [annotations[i] for i in np.flatnonzero(kept).tolist()]
    label = {category_id: i for i, category_id in enumerate(category_ids)}
    outlines = pack_outlines(annotations, dict(zip(image_ids, sizes, strict=True)), file, findings)
    whole = all(isinstance(value, int) and abs(value) < 2**62 for value in ids)
    return Objects(
        starts=np.searchsorted(image[kept], np.arange(len(image_ids) + 1)),
        boxes=clipped[kept],
        labels=np.array([label[a["category_id"]] for a in annotations], dtype=np.int64),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool),
        areas=_numbers(annotations, "area", 1, file)[:, 0],
        ids=ids[kept].astype(np.int64) if whole else ids[kept],
        keypoints=_keypoints(annotations, findings, file),
        part_starts=outlines.part_starts,
        point_starts=outlines.point_starts,
        points=outlines.points,
        rle_starts=outlines.rle_starts,
        rle_bytes=outlines.rle_bytes,
    )


def _numbers(annotations: list[Table], field: str, count: int, file: Path) -> np.ndarray:
    """Column (A, count) float64 of a field; a ValueError names the first annotation that has something else there."""
    values = [a[field] if count > 1 else [a[field]] for a in annotations]
    try:
        column = np.array(values or np.zeros((0, count)))
    except ValueError:  # rows of different lengths
        column = np.zeros(0)
    if column.dtype.kind in "fiu" and column.shape == (len(values), count):
        return column.astype(np.float64)
    for annotation, value in zip(annotations, values, strict=True):
        numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
        if not numbers or len(value) != count:
            wanted = "[x, y, width, height] in pixels" if field == "bbox" else f"{count} numbers"
            raise ValueError(f"{where(annotation, file)} has {field} {str(annotation[field])[:60]}; wanted {wanted}")
    raise ValueError(f"{file}: some annotation has a {field} with a number that is too large")


def _keypoints(annotations: list[Table], findings: Findings, file: Path) -> np.ndarray | None:
    """Keypoints (A, J, 3) float32, zeros where an object has none; None where nothing has any."""
    counts = {len(a["keypoints"]) for a in annotations if a.get("keypoints")}
    if not counts:
        return None
    if len(counts) > 1 or min(counts) % 3:
        with_points = [a["id"] for a in annotations if a.get("keypoints")]
        told = f"keypoints of different or odd counts ({few(sorted(counts))} numbers)"
        findings.add(told, "no keypoints are used; wanted x, y, visibility of one set of points for all", with_points)
        return None
    [count] = counts
    none = [0.0] * count
    filled = [{**a, "keypoints": a.get("keypoints") or none} for a in annotations]
    return _numbers(filled, "keypoints", count, file).astype(np.float32).reshape(-1, count // 3, 3)
