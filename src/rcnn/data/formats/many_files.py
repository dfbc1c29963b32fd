"""Shared by formats with an annotation file per image: classes by name, and instances as pixels of an image of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rcnn.data.checks.tables import MetricName, RawEntry, RawTables
from rcnn.data.folders import images_in
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import Warnings, counted, few, printable
from rcnn.ops.coco_backend import Rle, encode_pasted
from rcnn.text_files import lines_of

DEFAULT_CLASS = "object"  # the class if a format names none


def named_tables(
    *,
    file: Path,
    root: Path,
    folders: tuple[Path, ...],
    images: list[RawEntry],
    annotations: Sequence[RawEntry],
    names: Sequence[str] = (),
    metric: MetricName = "coco",
) -> RawTables:
    """Tables of annotations that have `category`, the name of their class.

    Category ids count from 1: first the classes `names`, then other classes of the annotations in alphabetical order.
    """
    others = {str(annotation["category"]) for annotation in annotations} - set(names)
    order = [*names, *sorted(others)] or [DEFAULT_CLASS]
    ids = {name: number for number, name in enumerate(order, start=1)}
    return RawTables(
        file=file,
        root=root,
        folders=folders,
        images=images,
        annotations=[annotation | {"category_id": ids[annotation["category"]]} for annotation in annotations],
        categories=[{"id": number, "name": name} for name, number in ids.items()],
        metric=metric,
    )


def clean_name(written: str, owner: object, warnings: Warnings, noun: str = "annotation") -> str:
    """The name of a class that the entry `owner` has, without control characters, and with a warning if it had some.

    Names that differ only in these are one class; so names are cleaned before the classes are collected.
    """
    name = printable(written).strip()
    if name != written.strip():
        what = "a class name with control characters (line breaks, tabs, ...) or characters that are not valid"
        warnings.add(what, "these were replaced", [owner], noun, kind="bad-category-name")
    return name


def clean_lines(file: Path, warnings: Warnings, comments: tuple[str, ...] = ()) -> list[str]:
    """The lines of a file that lists classes, cleaned as by `clean_name`, without those that start with `comments`."""
    lines = [line for line in lines_of(file) if not line.startswith(comments)]
    return [clean_name(line, f"{file.name}: {line}", warnings, "line") for line in lines]


def note_same_names(folder: Path, warnings: Warnings) -> None:
    """Note the images in a folder that `images_in` leaves out because another image has the same stem."""
    first = set(images_in(folder).values())
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if repeated := [name for name in names if name not in first and not name.startswith(".")]:
        warnings.note(
            f"{counted(len(repeated), 'image')} with the name of another image apart from the suffix: "
            f"{few(repeated)}: not used"
        )


def instances(ids: np.ndarray, background: Collection[int] = (0,)) -> Iterator[tuple[int, np.ndarray, Rle]]:
    """Each instance in an image of ids (H, W): its id, the positions (P,) int64 of its pixels in row order, its mask.

    Ids in `background` are not instances.
    """
    flat = ids.reshape(-1)
    used = np.flatnonzero(~np.isin(flat, list(background)))
    used = used[np.argsort(flat[used], kind="stable")]
    values = flat[used]
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1)).tolist()
    for start, end in pairwise([*starts, len(used)]):
        pixels = used[start:end]
        yield int(values[start]), pixels, pixels_mask(pixels, (ids.shape[0], ids.shape[1]))


def pixels_mask(pixels: np.ndarray, size: tuple[int, int]) -> Rle:
    """The mask of the pixels at positions (P,) int64, row by row, of an image of `size` (height, width)."""
    rows, columns = np.divmod(pixels, size[1])
    top, left = int(rows.min()), int(columns.min())
    region = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), dtype=bool)
    region[rows - top, columns - left] = True
    return encode_pasted(left, top, region, size)
