"""Shared by formats with an annotation file per image: classes by name, and instances as pixels of an image of ids."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rcnn.data.checks.tables import MetricName, RawEntry, RawTables
from rcnn.data.formats.files import visible
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import Warnings, counted, few
from rcnn.ops.coco_backend import Rle, encode_region

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


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones; none if the folder does not exist."""
    try:
        return visible(one for one in folder.iterdir() if one.is_dir())
    except OSError:
        return []


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and its subfolders with the names of their files, sorted; without hidden subfolders.

    Links are followed, each folder once. Hidden folders have copies of images, e.g. .ipynb_checkpoints or .thumbnails.
    """
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield Path(place), sorted(names)


def images_in(folder: Path) -> dict[str, str]:
    """Stem -> file name of the images in a folder, sorted; the first name if two images have the same stem."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    found: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            found.setdefault(stem, name)
    return dict(sorted(found.items()))


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
    return encode_region(left, top, region, size)
