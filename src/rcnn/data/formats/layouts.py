"""The formats, and which of them reads a split of a data set."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Protocol

from rcnn.arguments import as_optional_text, require_switches
from rcnn.data.checks.check import KnownImages
from rcnn.data.checks.tables import Tables
from rcnn.data.folders import subfolders
from rcnn.data.formats import coco, labelme, labelme_nested, labelme_xml, lvis, mask_folder, refer, sbd, via, voc, yolo
from rcnn.data.formats.files import annotation_file, require_one_per_split, split_of
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.unknown import hint_for, no_such_split, not_recognised
from rcnn.data.formats.yolo_layouts import unusable_split
from rcnn.data.messages import counted, few
from rcnn.text_files import gc_paused, require_data_path, require_regular


class Format(Protocol):
    """What the module of a format offers. `annotations`: the path or pattern of its files, if it is not a usual one."""

    @property
    def NAME(self) -> str:
        """How users call the format, e.g. "labelme"."""
        ...

    @property
    def SPLIT_FILES(self) -> str:
        """Where the annotations of a split are, for messages, with "{split}" for its name."""
        ...

    def splits(self, folder: Path, annotations: str = "") -> set[str]:
        """Names of the splits that `folder` has in this format; a folder that is not divided has the split "all"."""
        ...

    def recognises(self, folder: Path, split: str, annotations: str = "") -> bool:
        """Whether `folder` has `split` in this format, by file names and, where these do not tell, contents."""
        ...

    def read(self, folder: Path, split: str, options: ReadOptions) -> Tables:
        """The checked tables of a split. Raises ValueError or OSError, with the file and what is wrong in it."""
        ...


# The splits of a folder are those of the first group that has any: its other files are not taken for more splits.
GROUPS: tuple[tuple[Format, ...], ...] = (
    (refer,), (lvis, coco, via), (labelme,), (yolo,), (sbd,), (labelme_xml,), (voc,), (mask_folder,),
    (labelme_nested,),
)  # fmt: skip
FILE_SUFFIXES = (".json", ".yaml", ".yml")  # of files that can be given instead of a folder
MAX_SEARCHED = 50  # folders in which a data set is searched for, if the given folder is none
USUAL_SPLIT = re.compile(r"all$|train|val|test", re.IGNORECASE)
# formats for which the arguments `images` and `relative_boxes` of `open_dataset` have a meaning
TAKE_IMAGES: tuple[Format, ...] = (coco, lvis, via)
TAKE_RELATIVE: tuple[Format, ...] = (coco, lvis)
FORMATS = tuple(one for group in GROUPS for one in group)  # the first that recognises a split reads it
PATTERNS = tuple(dict.fromkeys((*coco.PATTERNS, *via.PATTERNS)))  # of annotation files that hold a whole split


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where the annotations and images of a data set are, as given by the user."""

    folder: Path
    annotations: str = ""  # path within `folder`, with "{split}" for the name of the split; empty: the usual names
    file_split: str = ""  # the split of the one annotation file that the user gave instead of a folder
    images: Path | None = None  # folder of the images; None: searched for in the usual places
    keypoints: bool = False  # prefers COCO's person_keypoints_SPLIT.json
    optional_files: bool = False  # image files may all be absent, in formats with the sizes of the images
    relative_boxes: bool = False  # boxes are fractions of the image


def locate(
    path: Path,
    annotations: str = "",
    *,
    images: Path | str = "",
    keypoints: bool = False,
    optional_files: bool = False,
    relative_boxes: bool = False,
) -> Location:
    """The location of a data set; `path` is its folder or its only annotation file.

    `images` is a path within the folder, else from the working directory. Raises FileNotFoundError for a path that does
    not exist, ValueError for a file that is not an annotation file, or if both a file and `annotations` are given.
    """
    annotations, images = as_optional_text(annotations, "annotations"), as_optional_text(images, "images")
    require_switches(keypoints=keypoints, relative_boxes=relative_boxes)
    located = partial(Location, keypoints=keypoints, optional_files=optional_files, relative_boxes=relative_boxes)
    if path.is_dir():
        return located(folder=path, annotations=_within(annotations, path), images=_images_folder(images, path))
    require_data_path(path)
    require_regular(path)
    if path.suffix.lower() not in FILE_SUFFIXES:
        hint = hint_for(path)
        raise ValueError(
            f"{path} is not an annotation file of a whole data set; expected a {' or '.join(FILE_SUFFIXES)} file, or "
            f"the folder of a data set{f'. It is {hint}' if hint else ''}"
        )
    if annotations:
        raise ValueError(
            f"{path} is an annotation file itself: leave annotations={annotations!r} (--annotations) out, or give the "
            "folder of the data set"
        )
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    file = path.relative_to(folder).as_posix()
    # other files, e.g. YOLO's data.yaml, list splits themselves
    split = split_of(path, folder, PATTERNS) if path.suffix.lower() == ".json" else ""
    return located(folder=folder, annotations=file, file_split=split, images=_images_folder(images, folder))


def _within(annotations: str, folder: Path) -> str:
    """A pattern of annotation files as a path relative to the folder of the data set, with slashes."""
    if not annotations:
        return ""
    if not os.path.isabs(annotations):
        return PurePath(annotations).as_posix()
    try:
        within = os.path.relpath(annotations, folder)
        if within.startswith(os.pardir):  # the folder may be a link, which ".." does not leave
            within = os.path.relpath(annotations, os.path.realpath(folder))
    except ValueError:  # on another drive of Windows
        within = annotations
    return PurePath(within).as_posix()


def _images_folder(images: Path | str, folder: Path) -> Path | None:
    """The folder of the images that the user names, in the folder of the data set or else in the working directory."""
    if not images:
        return None
    found = next((path for path in (folder / images, Path(images)) if path.is_dir()), None)
    if found is None:
        tried = " or ".join(dict.fromkeys(str(path) for path in (folder / images, Path.cwd() / images)))
        raise FileNotFoundError(
            f"images={images} (--images): there is no folder {tried}; expected the folder of the images"
        )
    return found


def splits_at(location: Location) -> list[str]:
    """Names of the splits, sorted; at least one.

    Raises FileNotFoundError if there is none, ValueError if `annotations` is one file for all splits.
    """
    if location.file_split:
        return [location.file_split]
    return sorted(name for names in _offered(location).values() for name in names)


def _offered(location: Location) -> dict[str, set[str]]:
    """SPLIT_FILES of a format -> the splits that the format has; each split is in one format only."""
    require_one_per_split(location.folder, location.annotations)
    folder, annotations = location.folder, location.annotations
    for group in GROUPS:
        found: dict[str, set[str]] = {}
        for one in group:
            if names := one.splits(folder, annotations).difference(*found.values()):
                found.setdefault(one.SPLIT_FILES, set()).update(names)
        if found:
            _require_one_data_set(folder, set().union(*found.values()))
            return found
    if not annotations and (below := _data_sets_below(folder)):
        sets = few([f"{path} ({name})" for path, name in below.items()], 20)
        raise FileNotFoundError(
            f"{folder} has no annotations itself, but contains {counted(len(below), 'data set')}: {sets}; give the "
            f"folder of the data set, e.g. {min(below)}"
        )
    raise not_recognised(folder, annotations, names_of_formats())


def format_of(folder: Path) -> str:
    """The name of the format in which a folder is a data set; empty: it is none."""
    return next((each.NAME for each in FORMATS if each.splits(folder)), "")


def _data_sets_below(folder: Path) -> dict[Path, str]:
    """The data sets directly below a folder, else one level deeper, each with its format; empty: none."""
    level = subfolders(folder)[:MAX_SEARCHED]
    for places in (level, [inner for one in level for inner in subfolders(one)][:MAX_SEARCHED]):
        formats = {one: format_of(one) for one in places}
        if found := {one: name for one, name in formats.items() if name}:
            return found
    return {}


def _require_one_data_set(folder: Path, names: set[str]) -> None:
    """Raise ValueError if a split is in fact one of several data sets in `folder`, each in a folder of its own.

    `names` are the names of the splits. Folders with the usual names of splits are not searched.
    """
    inside = subfolders(folder)
    if all(USUAL_SPLIT.match(name) for name in names) or names.isdisjoint(one.name for one in inside):
        return
    formats = {one.name: format_of(one) for one in inside}
    sets = {name: known for name, known in formats.items() if known}
    if sets.keys() & names and sets.keys() - names:
        raise ValueError(
            f"{folder} contains {len(sets)} data sets: {few([f'{name} ({known})' for name, known in sets.items()], 20)}"
            f"; give the folder of one of them, e.g. {folder / min(sets)}"
        )


def read_split(location: Location, split: str, known: KnownImages | None = None) -> Tables:
    """The tables of a split; `known` images are not searched for again.

    Raises ValueError or OSError, with the file and what is wrong in it.
    """
    tables = _read(location, split, known)
    if tables.refusals:
        raise tables.refusals[0]
    return tables


def read_tables(location: Location, split: str) -> Tables:
    """The checked tables of a split, without the entries that `open_dataset` would refuse: see Tables.refusals.

    Raises FileNotFoundError or ValueError if nothing can be read.
    """
    with gc_paused():
        return _read(location, split, None)


def _read(location: Location, split: str, known: KnownImages | None) -> Tables:
    """The tables of a split in the first format that recognises it."""
    folder, annotations = location.folder, location.annotations
    chosen = next((one for one in FORMATS if one.recognises(folder, split, annotations)), None)
    if chosen is None:
        if annotation_file(folder, split, (annotations,) if annotations else PATTERNS) is None:
            if annotations:
                raise not_recognised(folder, annotations.replace("{split}", split), names_of_formats())
            if wrong := unusable_split(folder, split, annotations):
                raise ValueError(wrong)
            searched = "" if location.file_split else " or ".join(_offered(location))
            raise no_such_split(folder, split, splits_at(location), searched)
        chosen = coco  # a file in the place of an annotation file: COCO's reader says what is wrong with it
    for option, given, takers in (
        ("relative_boxes (--relative-boxes)", location.relative_boxes, TAKE_RELATIVE),
        ("images (--images)", location.images is not None, TAKE_IMAGES),
    ):
        if given and chosen not in takers:
            names = " and ".join(one.NAME for one in takers)
            raise ValueError(
                f"{option} is for the formats {names}, but {folder} has split {split!r} in the format of "
                f"{chosen.NAME}: leave {option} out"
            )
    options = ReadOptions(
        annotations=annotations,
        keypoints=location.keypoints,
        images=location.images,
        optional_files=location.optional_files,
        relative_boxes=location.relative_boxes,
        known=known,
    )
    return chosen.read(folder, split, options)


def names_of_formats() -> str:
    """The names of the formats, for messages."""
    return ", ".join(dict.fromkeys(one.NAME for one in FORMATS))
