"""labelme's files in subfolders of a split: train/monday/a.json, train/tuesday/a.json; see labelme.py.

Only folders that no other format reads are read so (see `layouts.GROUPS`), and train/, val/, ... beside splits that
labelme.py reads.
"""

from __future__ import annotations

from pathlib import Path

from rcnn.data.checks.tables import Tables
from rcnn.data.folders import subfolders
from rcnn.data.formats.labelme import NAME as LABELME
from rcnn.data.formats.labelme import read_files
from rcnn.data.formats.labelme_places import holds_nested, json_files_below, subfolders_of
from rcnn.data.formats.options import ReadOptions
from rcnn.data.messages import Warnings

NAME = LABELME
SPLIT_FILES = "labelme's JSON files in the folders of {split}/"


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the subfolders without labelme files that have subfolders with such files."""
    subs = subfolders_of(folder)
    names = {one.name for top in (folder, *(folder / sub for sub in subs)) for one in subfolders(top)} - set(subs)
    return {name for name in names if recognises(folder, name, annotations)}


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has labelme files in subfolders of `split`."""
    return not annotations and _place(folder, split) is not None


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is the path of its JSON file within the split, without suffix.

    Only `options.known` has an effect. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    place = _place(folder, split)
    if place is None:
        raise FileNotFoundError(f"{folder} has no labelme files in subfolders of split {split!r}")
    warnings = Warnings(place)
    return read_files(folder, split, place, json_files_below(place, warnings), options, warnings)


def _place(folder: Path, split: str) -> Path | None:
    """The folder of a split, the first of several; None if there is none."""
    places = (folder / split, *(folder / sub / split for sub in subfolders_of(folder)))
    return next((place for place in places if holds_nested(place)), None)
