"""Merges the checked tables of several splits, and selects the part of a table that belongs to some images.

Ids that differ are kept. If two splits use the same ids, those of the later split change: an offset is added to
numbers, and the name of the split is put before text. A note reports it, because results contain the new ids.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from rcnn.data.checks.additions import VERIFIED
from rcnn.data.checks.tables import Annotation, Category, Id, Image, MetricName, Tables
from rcnn.data.messages import excerpt


def select_images(tables: Tables, indices: Sequence[int]) -> Tables:
    """The tables with the images at `indices` and their annotations."""
    images = [tables.images[index] for index in indices]
    ids = {image["id"] for image in images}
    return replace(tables, images=images, annotations=[one for one in tables.annotations if one["image_id"] in ids])


def merge(tables: Sequence[Tables], names: Sequence[str]) -> Tables:
    """The tables of the splits `names` as one; categories of the same name become one category.

    Raises ValueError if categories have the same name and different keypoints.
    """
    if len(tables) == 1:
        return tables[0]
    folder = Path(os.path.commonpath([one.folder.absolute() for one in tables]))
    images: list[Image] = []
    annotations: list[Annotation] = []
    categories: list[Category] = []
    described: dict[object, str] = {}
    notes = [note for one in tables for note in one.notes]
    for one, name in zip(tables, names, strict=True):
        image_ids = _new_ids([image["id"] for image in one.images], {image["id"] for image in images}, name)
        own_ids = _new_ids([entry["id"] for entry in one.annotations], {entry["id"] for entry in annotations}, name)
        numbers = _add_categories(categories, one)
        prefix = os.path.relpath(one.folder.absolute(), folder)
        for image in one.images:
            file = os.path.normpath(os.path.join(prefix, image["file_name"])).replace(os.sep, "/")
            moved = image.copy()
            moved["id"] = image_ids[image["id"]]
            moved["file_name"] = file
            renumber_verified(moved, numbers)
            images.append(moved)
        for entry in one.annotations:
            renamed = entry.copy()
            renamed["id"] = own_ids[entry["id"]]
            renamed["image_id"] = image_ids[entry["image_id"]]
            renamed["category_id"] = numbers[entry["category_id"]]
            annotations.append(renamed)
        described |= {own_ids[id_]: text for id_, text in _named(one) if id_ in own_ids}
        changed = next(((old, new) for old, new in image_ids.items() if old != new), None)
        if changed:
            notes.append(
                f"{one.file}: image ids of split {name} are used by another split too, so results have new ids, e.g. "
                f"{changed[1]} for its image {changed[0]}"
            )
    metric, note = _metric_of(tables, names)
    notes += note
    keypoints_differ = _drop_unlike_keypoints(annotations) or any(one.keypoints_differ for one in tables)
    categories.sort(key=lambda category: category["id"])
    together = Path(os.path.commonpath({one.file for one in tables}))  # the file itself if it is one
    return Tables(
        file=together,
        folder=folder,
        images=images,
        annotations=annotations,
        categories=categories,
        metric=metric,
        names=described if len(described) == len(annotations) else {},
        keypoints_differ=keypoints_differ,
        findings=tuple(dict.fromkeys(finding for one in tables for finding in one.findings)),
        notes=tuple(dict.fromkeys(notes)),
        without_files=any(one.without_files for one in tables),
    )


def _metric_of(tables: Sequence[Tables], names: Sequence[str]) -> tuple[MetricName, list[str]]:
    """The default metric of the merged splits: that of each split, or COCO's, with a note, if they differ."""
    if len({one.metric for one in tables}) == 1:
        return tables[0].metric, []
    own = ", ".join(f"{one.metric} ({name})" for one, name in zip(tables, names, strict=True))
    return "coco", [
        f"{tables[0].file}: the splits have different metrics, {own}; coco is used unless metric (--metric) is given"
    ]


def renumber_verified(image: Image, numbers: Mapping[int, int]) -> None:
    """Replace the category ids in the fields that LVIS adds to images."""
    for field in VERIFIED:
        if field in image:
            image[field] = [numbers[number] for number in image[field] if number in numbers]


def _named(tables: Tables) -> Iterator[tuple[Id, str]]:
    """The id and the name in messages of each annotation, in formats without ids."""
    return ((number, text) for number, text in tables.names.items() if isinstance(number, int | str))


def _new_ids(ids: Sequence[Id], used: Collection[Id], name: str) -> dict[Id, Id]:
    """A map from each of `ids` to its new id: the same, if none of `ids` is in `used`."""
    if not any(one in used for one in ids):
        return {one: one for one in ids}
    largest = max((abs(one) for one in (*ids, *used) if isinstance(one, int)), default=0)
    offset = 10 ** (len(str(largest)) + any(isinstance(one, int) and one < 0 for one in ids))  # 17 becomes 100017
    prefix = f"{name}/"
    while any(f"{prefix}{one}" in used for one in ids):
        prefix += "+"
    return {one: one + offset if isinstance(one, int) else f"{prefix}{one}" for one in ids}


def _add_categories(categories: list[Category], tables: Tables) -> dict[int, int]:
    """Add the categories of `tables` with new names; return the id in `categories` of every category of `tables`."""
    named = {category["name"]: category for category in categories}
    used = {category["id"] for category in categories}
    ids: dict[int, int] = {}
    for category in tables.categories:
        known = named.get(category["name"])
        if known is None:
            free = category["id"] if category["id"] not in used else max(used) + 1
            known = category.copy()
            known["id"] = free
            categories.append(known)
            used.add(free)
        elif differ := _first_difference(category.get("keypoints") or (), known.get("keypoints") or ()):
            raise ValueError(
                f"{tables.file}: category {category['name']!r} has other keypoints than in another split: {differ}; "
                "splits that are used as one need the same keypoints"
            )
        ids[category["id"]] = known["id"]
    return ids


def _first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """How many keypoints two lists of names have, and the first that differs; empty for equal lists."""
    for number, names in enumerate(zip_longest(here, there), start=1):
        if names[0] != names[1]:
            own, other = ("missing" if name is None else excerpt(name) for name in names)
            return f"{len(here)} here and {len(there)} there; number {number} (from 1) is {own} here and {other} there"
    return ""


def _drop_unlike_keypoints(annotations: list[Annotation]) -> bool:
    """Remove keypoints of different numbers; return whether they were removed. Objects without any get zeros."""
    counts = {len(one["keypoints"]) for one in annotations if one.get("keypoints")}
    if len(counts) <= 1:
        for one in annotations if counts else ():
            if not one.get("keypoints"):
                one["keypoints"], one["num_keypoints"] = [0.0] * max(counts), 0
        return False
    for one in annotations:
        one.pop("keypoints", None)
        one.pop("num_keypoints", None)
    return True
