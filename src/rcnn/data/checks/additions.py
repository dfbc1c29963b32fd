"""Fields that some data sets add to COCO's: difficult objects (VOC), expressions (REFER), verified classes (LVIS).

Each is optional in every entry; metrics and drawings use those that an entry has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rcnn.data.checks.ids import as_id, as_whole
from rcnn.data.checks.numbers import flags
from rcnn.data.checks.tables import Annotation, Category, Id, Image, RawEntry, RawTables
from rcnn.data.messages import Warnings, printable

IGNORED = "not used"
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent
VerifiedField = Literal["neg_category_ids", "not_exhaustive_category_ids"]
VERIFIED: tuple[VerifiedField, ...] = ("neg_category_ids", "not_exhaustive_category_ids")


def add_image_fields(images: Sequence[Image], raw: RawTables, categories: set[int], warnings: Warnings) -> list[Image]:
    """The images with the classes that LVIS verified in them; `categories` are the ids of all classes."""
    completed = [image.copy() for image in images]
    for field in VERIFIED:
        wrong: list[Id] = []
        for image, entry in zip(completed, raw.images, strict=True):
            if field in entry:
                found = _known_ids(entry[field], categories)
                image[field] = found or []
                if found is None:
                    wrong.append(image["id"])
        warnings.add(f"{field} that are not a list of category ids", IGNORED, wrong, "image")
    return completed


def add_category_fields(categories: Sequence[Category], raw: RawTables, ids: Sequence[int], warnings: Warnings) -> None:
    """Add LVIS' frequency to the checked categories; `ids` are the category ids in the order of the file."""
    written = dict(zip(ids, raw.categories, strict=True))
    wrong: list[Id] = []
    for category in categories:
        frequency = written[category["id"]].get("frequency")
        if isinstance(frequency, str) and frequency in FREQUENCIES:
            category["frequency"] = frequency
        elif frequency is not None:
            wrong.append(category["id"])
    warnings.add(f"a frequency that is not one of {', '.join(FREQUENCIES)}", IGNORED, wrong, "category")


def add_annotation_fields(checked: Sequence[Annotation], written: Sequence[RawEntry], warnings: Warnings) -> None:
    """Add VOC's `difficult` and REFER's `expressions` to the checked annotations."""
    given = [place for place, entry in enumerate(written) if "difficult" in entry]
    values, odd = flags([written[place]["difficult"] for place in given])
    for place, value in zip(given, values.tolist(), strict=True):
        checked[place]["difficult"] = value
    warnings.add(
        "a value of difficult that is neither 0 nor 1",
        "null and unknown text count as 0, other numbers as 1",
        [checked[given[place]]["id"] for place in np.flatnonzero(odd).tolist()],
    )
    wrong: list[Id] = []
    for entry, source in zip(checked, written, strict=True):
        expressions = source.get("expressions")
        if isinstance(expressions, list) and all(isinstance(one, str) for one in expressions):
            entry["expressions"] = [printable(one) for one in expressions]
        elif expressions is not None:
            wrong.append(entry["id"])
    warnings.add("expressions that are not a list of texts", IGNORED, wrong)


def _known_ids(value: object, categories: set[int]) -> list[int] | None:
    """The category ids in a list; None for anything else. Ids that no category has are skipped."""
    if not isinstance(value, list):
        return None
    ids = [as_id(one) for one in value]
    if any(one is None for one in ids):
        return None
    numbers = [as_whole(one) for one in ids if one is not None]
    return [one for one in numbers if one is not None and one in categories]
