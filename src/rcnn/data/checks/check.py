"""Every field of an annotation file, checked once, when the file is opened.

A file is refused if its structure or its ids cannot be understood, or if half of its images or more cannot be used. A
faulty image, object or field is repaired or skipped, and counted in a warning: one mistake in 100,000 images must not
stop a training run.

Letters: A annotations, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcnn.data.checks.additions import add_annotation_fields, add_category_fields, add_image_fields
from rcnn.data.checks.boxes import check_areas, check_boxes
from rcnn.data.checks.categories import check_categories, with_unique_names, without_placeholder
from rcnn.data.checks.ids import annotation_ids, as_id, category_ids, image_ids, places_of
from rcnn.data.checks.images import (
    SKIPPED_IMAGES,
    add_skipped,
    check_images,
    have_sizes,
    images_without_files,
    may_skip,
    written_name,
)
from rcnn.data.checks.keypoints import check_keypoints
from rcnn.data.checks.numbers import MAX_COORDINATE, flags
from rcnn.data.checks.outlines import Outline, check_outlines
from rcnn.data.checks.tables import Annotation, Category, Id, Image, RawEntry, RawTables, Tables
from rcnn.data.messages import SKIPPED, DataError, MissingImagesError, Warnings, excerpt

REQUIRED = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
FILES = ("file", "label file", "image")  # nouns of warnings about whole images
KnownImages = tuple[Path, list[Image]]  # the folder of the images, and the images that an earlier check found


def check_tables(raw: RawTables, warnings: Warnings, known: KnownImages | None = None) -> Tables:
    """The tables of a split with every field checked.

    `warnings` may contain those of the format's reader. `known` images are not searched for and measured again.
    Images whose files are missing or cannot be read are skipped, if they are fewer than half. Entries for which the
    file is refused are removed; `Tables.refusals` has the errors, which `open_dataset` raises. Raises ValueError, or
    FileNotFoundError for missing images, if nothing would be left.
    """
    refusals: list[DataError | MissingImagesError] = []
    warnings, images = warnings.copy(), len(raw.images)
    skipped: list[tuple[Id, str]] = []
    # A check raises an error for the first fault that it cannot repair. The entries with this fault are removed and the
    # others are checked again, from the start, until no error is raised: so all such faults are found, not just one.
    while True:
        try:
            tables = _checked_tables(raw, warnings.copy(), known)
        except (DataError, MissingImagesError) as error:
            if not error.places:
                raise refusals[0] if refusals else error from None
            if error.kind in SKIPPED_IMAGES and may_skip(len(skipped) + len(error.places), images):
                lost = [raw.images[place] for place in error.places]
                own = [(one, str(written_name(entry))) for entry in lost if (one := as_id(entry["id"])) is not None]
                skipped += own
                add_skipped(error.kind, [one for one, _ in own], error.example, warnings)
            else:
                refusals.append(error)
            raw = _without(raw, error)
        else:
            return replace(tables, refusals=tuple(refusals), skipped=tuple(skipped))


def _without(raw: RawTables, error: DataError | MissingImagesError) -> RawTables:
    """The tables without the entries that an error is about, and without the annotations of a removed image."""
    removed = set(error.places)
    entries: list[RawEntry] = getattr(raw, error.table)
    kept = [entry for place, entry in enumerate(entries) if place not in removed]
    if error.table == "annotations":
        return replace(raw, annotations=kept)
    if error.table == "categories":
        return replace(raw, categories=kept)
    if error.kind not in SKIPPED_IMAGES:
        return replace(raw, images=kept)
    lost = {as_id(entries[place]["id"]) for place in removed} - {as_id(entry["id"]) for entry in kept}
    annotations = [one for one in raw.annotations if as_id(one["image_id"]) not in lost] if lost else raw.annotations
    return replace(raw, images=kept, annotations=annotations)


def _checked_tables(raw: RawTables, warnings: Warnings, known: KnownImages | None) -> Tables:
    warnings.names = raw.names
    _require_entries(raw, warnings)
    ids = image_ids(raw)
    without_files = False
    try:
        folder, images = known or check_images(raw, ids, warnings)
    except MissingImagesError as error:
        if error.places or not raw.optional_files or not have_sizes(raw.images):
            raise
        folder, images, without_files = raw.root, images_without_files(raw, ids, warnings), True
    if [image["id"] for image in images] != ids:
        raise ValueError(f"{raw.file} was changed after it was opened: do not change it while it is used")
    numbers = category_ids(raw)
    images = add_image_fields(images, raw, set(numbers), warnings)
    categories = check_categories(raw, numbers, warnings)
    add_category_fields(categories, raw, numbers, warnings)
    annotations, keypoints_differ = _checked_annotations(raw, images, numbers, categories, warnings)
    used = {annotation["category_id"] for annotation in annotations}
    return Tables(
        file=raw.file,
        folder=folder,
        images=images,
        annotations=annotations,
        categories=with_unique_names(without_placeholder(categories, used, warnings), warnings),
        keypoints_differ=keypoints_differ,
        findings=warnings.findings(),
        notes=warnings.notes(),
        metric=raw.metric,
        names=raw.names,
        without_files=without_files,
    )


def _require_entries(raw: RawTables, warnings: Warnings) -> None:
    """Raise unless each table has entries with the required fields.

    `warnings` are those of the format's reader: if it skipped all images, they say why.
    """
    for name, fields in REQUIRED.items():
        entries: list[object] = getattr(raw, name)
        needed = set(fields)
        wrong = [i for i, entry in enumerate(entries) if not isinstance(entry, dict) or not entry.keys() >= needed]
        if wrong:
            entry = entries[wrong[0]]
            lacks = ", ".join(f for f in fields if not isinstance(entry, dict) or f not in entry)
            message = f"{raw.file}: entry {wrong[0]} (from 0) of {name} has no {lacks}: {excerpt(entry)}. "
            message += f"Every entry needs {' and '.join(fields)}: add what is missing, or remove the entry"
            raise DataError("missing-field", message, name, wrong)
    if not raw.images:
        skipped = [one for one in warnings.findings() if one.noun in FILES and one.action.startswith(SKIPPED)]
        lines = [one.line() for one in skipped]
        what = "lists no images that can be used: repair its files, or" if lines else "lists no images:"
        raise DataError("no-images", "\n".join((f"{raw.file} {what} export the split again", *lines)))
    if not raw.categories:
        raise DataError(
            "no-categories",
            f"{raw.file} lists no categories; expected at least one, e.g. {{'id': 1, 'name': 'cat'}}",
        )


def _checked_annotations(
    raw: RawTables, images: Sequence[Image], numbers: Sequence[int], categories: Sequence[Category], warnings: Warnings
) -> tuple[list[Annotation], bool]:
    """The annotations that can be used: those with a box. Also returns whether their keypoints differ in number.

    `numbers` are the category ids in the order of the file, `categories` the checked categories.
    """
    written = raw.annotations
    image = places_of("image_id", [image["id"] for image in images], raw, warnings)
    category = [numbers[place] for place in places_of("category_id", numbers, raw, warnings).tolist()]
    ids = annotation_ids(written, warnings)
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)[image]  # (A, 2)
    limits = np.maximum(MAX_COORDINATE, 2.0 * sizes.max(axis=1, initial=0))  # (A,)
    outlines = check_outlines([entry.get("segmentation") for entry in written], sizes, limits, ids, warnings)
    boxes, relative = check_boxes(
        [entry.get("bbox") for entry in written], outlines, sizes, limits, ids, warnings, relative=raw.relative_boxes
    )
    stated = [None if relative else entry.get("area") for entry in written]
    areas = check_areas(stated, boxes, outlines, ids, warnings)
    crowds, odd = flags([entry.get("iscrowd", 0) for entry in written])
    warnings.add(
        "an iscrowd that is neither 0 nor 1",
        "null and unknown text count as 0, other numbers as 1",
        [ids[place] for place in np.flatnonzero(odd).tolist()],
        kind="bad-iscrowd",
    )
    by_id = {category["id"]: category for category in categories}
    keypoints, keypoints_differ = check_keypoints(
        written, [by_id[number] for number in category], limits, ids, warnings
    )
    owners = [images[place]["id"] for place in image.tolist()]
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist()
    rows = zip(ids, owners, category, boxes.tolist(), areas.tolist(), crowds.tolist(), outlines, strict=True)
    checked = [_annotation(*row) for row in rows]
    if keypoints is not None:
        for entry, points in zip(checked, keypoints, strict=True):
            entry["keypoints"] = points.reshape(-1).tolist()
            entry["num_keypoints"] = int((points[:, 2] > 0).sum())
    add_annotation_fields(checked, written, warnings)
    left = {owners[place] for place in usable}
    warnings.all_skipped([one for one in dict.fromkeys(owners) if one not in left])
    return [checked[place] for place in usable], keypoints_differ


def _annotation(
    number: Id, image: Id, category: int, box: list[float], area: float, crowd: int, outline: Outline
) -> Annotation:
    entry: Annotation = {
        "id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd
    }  # fmt: skip
    if outline is not None:
        entry["segmentation"] = outline
    return entry
