"""Data sets made in Python from records, one dict per image; see own_torch.py for torch data sets.

    dataset = rcnn.Dataset.from_records([{"file": "1.jpg", "boxes": [[10, 20, 50, 80]], "labels": ["cat"]}])

Both become the tables of an annotation file, so that every field is checked by the same rules (checks/check.py).

Letters: N objects of one image, J keypoints, K classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import Tensor

from rcnn.arguments import is_one_of
from rcnn.data.assemble import assemble
from rcnn.data.checks.check import KnownImages, check_tables
from rcnn.data.checks.ids import as_id
from rcnn.data.checks.run_lengths import rles_fit
from rcnn.data.checks.tables import Id, MetricName, RawEntry, RawTables, Tables
from rcnn.data.messages import MissingImagesError, Warnings, close_to, counted, excerpt, few
from rcnn.data.own_values import (
    is_torchvision_boxes,
    object_place,
    object_values,
    plain,
    require_same_number,
    values_of,
)
from rcnn.data.records import Dataset, ImageRecord

RECORD_KEYS = (
    "file", "image_id", "height", "width", "boxes", "labels", "segmentations", "keypoints", "crowd", "difficult",
    "areas", "expressions", "annotation_ids",
)  # fmt: skip
PER_OBJECT = {  # key of a record with one value per object -> its name in COCO's form
    "boxes": "bbox",
    "segmentations": "segmentation",
    "keypoints": "keypoints",
    "crowd": "iscrowd",
    "difficult": "difficult",
    "areas": "area",
    "expressions": "expressions",
    "annotation_ids": "id",
}


def dataset_of_records(
    records: Iterable[Mapping[str, Any] | ImageRecord],
    classes: Sequence[str] | None,
    keypoints: Sequence[str] = (),
    metric: MetricName = "coco",
) -> Dataset:
    """See `Dataset.from_records`."""
    if isinstance(records, (Mapping, str, bytes)) or not np.iterable(records):
        raise ValueError(f"records is of type {type(records).__name__}; expected a list of dicts, one per image")
    classes, keypoints = None if classes is None else names_of("classes", classes), names_of("keypoints", keypoints)
    if not is_one_of(metric, get_args(MetricName)):
        raise ValueError(f"metric is {metric!r}; expected one of {', '.join(get_args(MetricName))}")
    for index, one in enumerate(records := list(records)):
        if not isinstance(one, (Mapping, ImageRecord)):
            raise ValueError(f"record {index} is {excerpt(one)}; expected a dict with file, boxes, labels")
        if isinstance(one, Mapping) and isinstance(one.get("labels"), str):
            raise ValueError(f"record {index} has labels {one['labels']!r}; expected a list, one label per object")
    entries = [_of_record(one) if isinstance(one, ImageRecord) else dict(one) for one in records]
    if not entries:
        raise ValueError("records is empty; expected at least one image")
    for index, entry in enumerate(entries):
        if unknown := [key for key in entry if key not in RECORD_KEYS]:
            raise ValueError(
                f"record {index}: unknown key {unknown[0]!r}{close_to(str(unknown[0]), RECORD_KEYS)}; expected "
                f"{', '.join(RECORD_KEYS)}"
            )
        if not isinstance(entry.get("file"), str | Path):
            raise ValueError(f"record {index} has file {entry.get('file')!r}; expected the path of an image")
    files = [os.path.abspath(entry["file"]) for entry in entries]
    _require_files(files)
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    images: list[RawEntry] = []
    for index, (entry, file) in enumerate(zip(entries, files, strict=True)):
        image_id = image_id_of(entry, index, f"record {index}")
        image = {"id": image_id, "file_name": os.path.relpath(file, root)}
        images.append(image | {side: plain(entry[side]) for side in ("height", "width") if entry.get(side) is not None})
    require_different_ids([image["id"] for image in images], "record")
    return checked_dataset(root, "records", images, entries, classes, keypoints, metric=metric)


def names_of(key: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the argument `key`, which may be an array. Raises ValueError for a text, which has letters."""
    if isinstance(names, (str, bytes)) or not np.iterable(names):
        raise ValueError(f"{key} is {names!r}; expected a list of names, e.g. [{names!r}]")
    return tuple(map(plain, names))


def image_id_of(entry: Mapping[str, Any], default: int, where: str) -> Id:
    """The `image_id` of a record or target, or `default` if it has none. Raises ValueError for another value."""
    given = entry.get("image_id")
    if given is None:
        return default
    found = as_id(plain(given))
    if found is None:
        raise ValueError(f"{where} has the image_id {excerpt(given)}; expected an integer or text, or no image_id")
    return found


def require_different_ids(ids: Sequence[Id], noun: str) -> None:
    """Raise ValueError for an id that two entries have, each of which is called `noun` and its index."""
    first: dict[Id, int] = {}
    for index, one in enumerate(ids):
        if first.setdefault(one, index) != index:
            raise ValueError(
                f"{noun} {index} has the image_id {one!r} of {noun} {first[one]}; expected another id for each image: "
                "without an image_id, it is the index, so give one to all images or to none"
            )


def _require_files(files: Sequence[str]) -> None:
    """Raise MissingImagesError, with the index of the first record, for files that do not exist.

    Raises ValueError for a folder.
    """
    for index, file in enumerate(files):
        if os.path.isdir(file):
            raise ValueError(f"record {index}: the file {file} is a folder; expected the path of an image")
    missing = [index for index, file in enumerate(files) if not os.path.exists(file)]
    if not missing:
        return
    more = f" ({counted(len(missing), 'record')} in all have no file)" if len(missing) > 1 else ""
    raise MissingImagesError(
        f"record {missing[0]}: the file {files[missing[0]]} does not exist{more}; expected the path of an image; "
        f"relative paths start at the working directory, {os.getcwd()}",
        missing,
    )


def checked_dataset(
    root: Path,
    name: str,
    images: list[RawEntry],
    entries: Sequence[Mapping[str, Any]],
    classes: Sequence[str] | None,
    keypoints: Sequence[str],
    *,
    noun: str = "record",
    metric: MetricName = "coco",
    known: KnownImages | None = None,
    pixels: Callable[[int], Tensor] | None = None,
) -> Dataset:
    """The checked data set. Messages name the annotation file `name`, and an entry by `noun` and its index."""
    places = [f"{noun} {index}" for index in range(len(entries))]
    names = tuple(classes) if classes is not None else _label_names(entries)
    of_records = [
        _annotations(entry, image["id"], names, where)
        for where, image, entry in zip(places, images, entries, strict=True)
    ]
    _require_visibility(of_records, len(keypoints), places)
    annotations = [{"id": number, **one} for number, one in enumerate(chain.from_iterable(of_records), start=1)]
    extra = {"keypoints": list(keypoints)} if keypoints else {}
    raw = RawTables(
        file=Path(name),
        root=root,
        folders=(root,),
        images=images,
        annotations=annotations,
        categories=[{"id": label + 1, "name": one} | extra for label, one in enumerate(names)],
        metric=metric,
        names=_object_names(of_records, annotations, places),
    )
    tables = check_tables(raw, Warnings(raw.file), known)
    if tables.refusals:
        raise tables.refusals[0]
    _require_canvas(images, entries, tables, places)
    _require_masks(of_records, tables, places)
    return assemble(
        tables,
        root=root,
        split=name,
        classes=None,
        ignore_other_classes=False,
        reader=partial(_stored, tables),
        pixels=pixels,
    )


def _object_names(
    of_records: Sequence[Sequence[RawEntry]], annotations: Sequence[RawEntry], places: Sequence[str]
) -> dict[object, str]:
    """The names of the objects in warnings, by the ids of `annotations`; without ids that several objects have."""
    names = [object_place(where, i) for where, own in zip(places, of_records, strict=True) for i in range(len(own))]
    ids = [as_id(entry["id"]) for entry in annotations]
    uses = Counter(ids)
    return {one: name for one, name in zip(ids, names, strict=True) if one is not None and uses[one] == 1}


def _require_visibility(of_records: Sequence[Sequence[RawEntry]], joints: int, places: Sequence[str]) -> None:
    """Raise ValueError for a flat list of x, y of `joints` keypoints, which COCO's form would take as visible."""
    for where, entries in zip(places, of_records, strict=True):
        for i, entry in enumerate(entries):
            if len(entry.get("keypoints", ())) == 2 * joints > 0:
                raise ValueError(
                    f"{object_place(where, i)} has {2 * joints} numbers as keypoints; expected {3 * joints}: x, y, "
                    f"visibility (2: visible, 1: hidden, 0: not labelled) of {counted(joints, 'keypoint')}"
                )


def _require_canvas(
    images: Sequence[RawEntry], entries: Sequence[Mapping[str, Any]], tables: Tables, places: Sequence[str]
) -> None:
    """Raise ValueError for boxes of torchvision that belong to an image of another size, e.g. before it was resized."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in tables.images}
    for where, image, entry in zip(places, images, entries, strict=True):
        boxes, size = entry.get("boxes"), sizes.get(image["id"])
        if is_torchvision_boxes(boxes) and size is not None and tuple(boxes.canvas_size) != size:
            raise ValueError(
                f"{where} has boxes with a canvas_size of {few(boxes.canvas_size)} (height, width) for an image "
                f"of {few(size)}; expected the size of the image: transform the image and its boxes together"
            )


def _require_masks(of_records: Sequence[Sequence[RawEntry]], tables: Tables, places: Sequence[str]) -> None:
    """Raise ValueError for a mask that is not of the size of its image, or damaged."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in tables.images}
    for where, entries in zip(places, of_records, strict=True):
        for i, entry in enumerate(entries):
            mask, size = entry.get("segmentation"), sizes.get(entry["image_id"])
            if not isinstance(mask, dict) or size is None:
                continue
            if mask["size"] != size:
                raise ValueError(
                    f"{object_place(where, i)} has a mask of {few(mask['size'])} (height, width) for an image of "
                    f"{few(size)}; expected a mask of the size of the image"
                )
            if not rles_fit([mask], np.array([size])).all():
                raise ValueError(
                    f"{object_place(where, i)} has RLE that cannot be decoded; expected COCO's counts of {few(size)}"
                )


def _stored(tables: Tables, known: KnownImages | None) -> Tables:
    """The same tables: unlike a file, they cannot change."""
    return tables


def _annotations(entry: Mapping[str, Any], image_id: Id, names: Sequence[str], where: str) -> list[RawEntry]:
    """The objects of a record as annotations in COCO's form, without ids."""
    labels = values_of("labels", entry.get("labels"), where)
    columns: dict[str, list[Any]] = {}
    for key, field in PER_OBJECT.items():
        if entry.get(key) is not None:
            columns[field] = values_of(key, entry[key], where)
            require_same_number(key, columns[field], labels, where)
    if labels and not {"bbox", "segmentation"} & columns.keys():
        raise ValueError(f"{where} has labels, but neither boxes nor segmentations; expected one of them")
    found: list[RawEntry] = []
    for i, label in enumerate(labels):
        place = object_place(where, i)
        values = object_values({field: column[i] for field, column in columns.items() if column[i] is not None}, place)
        found.append({"image_id": image_id, "category_id": _label(label, names, place) + 1} | values)
    return found


def _label(label: object, names: Sequence[str], where: str) -> int:
    """A label by its number or its name."""
    label = plain(label)
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    raise ValueError(
        f"{where} has the label {label!r}; expected one of the classes {few(names)}, or 0 to {len(names) - 1}"
    )


def _label_names(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes of records without `classes`: their labels in alphabetical order."""
    found: set[str] = set()
    for index, entry in enumerate(entries):
        where = f"record {index}"
        for i, label in enumerate(map(plain, values_of("labels", entry.get("labels"), where))):
            if not isinstance(label, str):
                raise ValueError(
                    f"{object_place(where, i)} has the label {label!r}, which is not a name; expected names of "
                    "classes, or pass the names: classes=[...]"
                )
            found.add(label)
    if not found:
        for index, entry in enumerate(entries):
            for key in PER_OBJECT:
                require_same_number(key, values_of(key, entry.get(key), f"record {index}"), (), f"record {index}")
        raise ValueError("no record has objects: pass the names of the classes, classes=[...]")
    return tuple(sorted(found))


def _of_record(record: ImageRecord) -> dict[str, Any]:
    """An ImageRecord as a dict."""
    return {
        "file": record.path,
        "image_id": record.image_id,
        "height": record.height,
        "width": record.width,
        "boxes": record.boxes,
        "labels": record.labels,
        "segmentations": record.segmentations,
        "keypoints": record.keypoints,
        "crowd": record.ignored & ~record.difficult,
        "difficult": record.difficult,
        "areas": record.areas,
        "expressions": record.expressions,
        "annotation_ids": record.annotation_ids,
    }
