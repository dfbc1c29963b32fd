"""What is in the folders of a data set, without hidden files and folders."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from pathlib import Path

from rcnn.data.formats.files import visible
from rcnn.data.images import IMAGE_SUFFIXES


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones; none if the folder does not exist."""
    try:
        return visible(one for one in folder.iterdir() if one.is_dir())
    except OSError:
        return []


def first_files(folder: Path, suffix: str, number: int) -> list[Path]:
    """The first `number` files of a folder with a suffix, by name, without hidden ones; none if there is no folder.

    Only these are asked whether they are files: a folder may have many, on a slow disk.
    """
    try:
        names = [name for name in os.listdir(folder) if name.endswith(suffix) and not name.startswith(".")]
    except OSError:
        return []
    return [file for name in heapq.nsmallest(number, names) if (file := folder / name).is_file()]


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
