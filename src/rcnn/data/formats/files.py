"""Annotation files that hold a whole split: where they can be in a data set's folder, and where its images can be.

A pattern is a path within the folder, with "{split}" for the name of the split.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rcnn.data.messages import close_to

BESIDE = ("_annotations.coco", "via_region_data")  # names of files in the image folder of their split
# Prefixes of names that are not splits, where only the end of the name tells.
NO_SPLITS = ("instances_", "person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_", "lvis_", *BESIDE)
BY_ENDING = ("annotations/{split}.json", "{split}.json")
IMAGES = ("{split}", "images/{split}", "{split}/images", "images", ".")  # where the images of a split may be


@contextmanager
def collector_paused() -> Iterator[None]:
    """Disables garbage collection: with millions of lists in use, it takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_json(file: Path) -> object:
    """The content of a JSON file. Raises ValueError where it is damaged, OSError where it cannot be read."""
    try:
        with collector_paused():
            return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not JSON ({error}): it may be cut short or another kind of file; export or copy it again"
        ) from error


def require_one_per_split(annotations: str) -> None:
    """Raise ValueError for the path of one annotation file where a pattern of several is needed."""
    if annotations and "{split}" not in annotations:
        raise ValueError(f"annotations {annotations!r} is one file: write {{split}} in place of the split's name")


def annotation_file(folder: Path, split: str, patterns: Sequence[str]) -> Path | None:
    """The first existing file of a split; None if there is none."""
    files = (folder / pattern.replace("{split}", split) for pattern in patterns)
    return next((file for file in files if file.is_file()), None)


def image_folders(file: Path, folder: Path, split: str) -> tuple[Path, ...]:
    """Where the images of a split may be, in order: in the folder of its annotation file, then in the usual folders."""
    folders = [file.parent, *(folder / pattern.replace("{split}", split) for pattern in IMAGES)]
    return tuple(dict.fromkeys(one for one in folders if one != folder / "annotations"))


def find_splits(folder: Path, patterns: Sequence[str], holds: Callable[[Path], bool]) -> set[str]:
    """Names of the splits that have a file matching one of `patterns` for which `holds` returns True.

    Files that match only by the end of their name are skipped if they have the prefix of another pattern (NO_SPLITS).
    """
    names: set[str] = set()
    for pattern in patterns:
        before, _, after = pattern.partition("{split}")
        shape = re.compile(re.escape(before) + "(?P<split>[^/]+)" + re.escape(after.replace("{split}", "(?P=split)")))
        for path in sorted(folder.glob(pattern.replace("{split}", "*"))):
            named = shape.fullmatch(path.relative_to(folder).as_posix())
            if named is None or not path.is_file():
                continue
            if pattern in BY_ENDING and path.name.startswith(NO_SPLITS):
                continue
            if holds(path):
                names.add(named["split"])
    return names


def nothing_found(folder: Path, split: str, splits: Sequence[str], patterns: Sequence[str]) -> FileNotFoundError:
    """The error for a folder without the annotations of a split ("": of any split); `splits` are those it has."""
    tried = ", ".join(pattern.replace("{split}", split or "SPLIT") for pattern in patterns)
    if not folder.is_dir():
        return FileNotFoundError(f"{folder} is not a folder; expected the folder of a data set, with one of {tried}")
    inside = [f"{name}.json" for name in BESIDE if (folder / f"{name}.json").is_file()]
    name = folder.resolve().name
    if len(patterns) == 1:
        return FileNotFoundError(
            f"{folder} has no {tried}, the annotation file that was asked for; expected a path within that folder"
        )
    if splits:
        return FileNotFoundError(
            f"{folder} has no split {split!r}{close_to(split, splits)}; it has {', '.join(splits)}. "
            f"Searched for {tried}"
        )
    if inside:
        return FileNotFoundError(
            f"{folder} holds {inside[0]}, so it is one split: give the folder above it, and {name} as the split; "
            f"searched for {tried}"
        )
    return FileNotFoundError(f"{folder} has no annotations of a known layout; searched for {tried}")
