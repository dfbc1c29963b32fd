"""What is in the folders of a data set, without hidden files and folders."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rcnn.data.formats.files import visible
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import Warnings
from rcnn.outputs import MARKER, RUN_LOG, readable_entries


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


def walk(folder: Path, warnings: Warnings | None = None) -> Iterator[tuple[Path, list[str]]]:
    """A folder and its subfolders with the names of their files, sorted; without hidden subfolders.

    Links are followed, each folder once. Hidden folders have copies of images, e.g. .ipynb_checkpoints or .thumbnails.
    What rcnn wrote into subfolders is skipped: pictures of runs and predictions are no data, and a divided or mended
    copy has the same images a second time. What it wrote into `folder` itself is a data set, unless the folder is that
    of a run. `warnings` receives the damaged lines of rcnn's lists of what it wrote.
    """
    seen, written = set[str](), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        own = written_in(Path(place), warnings) if MARKER in names else set[str]()
        if place != str(folder) or RUN_LOG in own:
            written |= {os.path.normpath(os.path.join(place, one)) for one in own}
        folders[:] = sorted(one for one in folders if not one.startswith(".") and _is_new(place, one, written))
        yield Path(place), sorted(one for one in names if _is_new(place, one, written))


def written_in(folder: Path, warnings: Warnings | None = None) -> set[str]:
    """What rcnn wrote to a folder, for a reader: none if its list is of another program or not readable.

    `warnings` receives the lines of the list that are damaged.
    """
    names, damaged = readable_entries(folder)
    if damaged and warnings is not None:
        what = "content that is not an entry of rcnn's list of the files that it wrote"
        action = "skipped; the file of such an entry counts as data, so remove that file, or restore the line"
        warnings.add(what, action, [f"{folder / MARKER}:{number}" for number in damaged], "line")
    return names


def _is_new(place: str, name: str, written: Collection[str]) -> bool:
    """Whether `name` in the folder `place` is not one of the paths `written`."""
    return not written or os.path.normpath(os.path.join(place, name)) not in written


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
