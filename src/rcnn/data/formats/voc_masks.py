"""The instances in Pascal VOC's images of ids, as VOC and other tools write them.

| tool | SegmentationObject | SegmentationClass |
|---|---|---|
| VOC, labelme2voc | ID.png, an id per instance; 255: border | ID.png, the number of a class; names in class_names.txt |
| labelme2voc, older | SegmentationObjectPNG/ID.png, or ID.npy | SegmentationClassPNG/ID.png, or ID.npy; -1: ignored |
| CVAT (Datumaro) | ID.png, a colour per instance | ID.png, the colour of a class; names in labelmap.txt |

A colour is the number R + 256 G + 65536 B, as `read_ids` returns it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib.format import open_memmap

from rcnn.data.checks.tables import RawEntry
from rcnn.data.formats.files import is_hidden
from rcnn.data.formats.many_files import clean_lines, instances
from rcnn.data.formats.voc_xml import VocImage, VocObject, difficult
from rcnn.data.images import read_ids
from rcnn.data.messages import SKIPPED, Warnings, excerpt, few
from rcnn.ops.coco_backend import Rle

OBJECT_MAPS, CLASS_MAPS = "SegmentationObject", "SegmentationClass"
PLACES = (("", ".png"), ("PNG", ".png"), ("", ".npy"), ("Npy", ".npy"))  # end of the folder's name, suffix of a map
CLASS_NAMES = "class_names.txt"  # of the classes by number, background first, as labelme2voc writes it
LABELMAP = "labelmap.txt"  # NAME:R,G,B:PARTS:ACTIONS per class, as CVAT writes it
BACKGROUND_NAMES = ("background", "_background_", "__background__")
IGNORED_NAMES = ("ignored", "__ignore__")
BORDER = 255  # id of the border around instances, and of objects that were not annotated
BORDER_COLOUR = 224 + 256 * 224 + 65536 * 192  # VOC's colour of BORDER
BACKGROUND = (0, BORDER)  # ids that are not instances
# of numpy, for a header with a shape of huge numbers, a shape not of integers, and brackets or quotes that do not close
HEADER_ERRORS = (OverflowError, TypeError, SyntaxError, TokenError, RecursionError)
MIN_IOU = 0.5  # of an instance and the box of the same object in the XML


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """The classes of a data set, and the values that stand for them in SegmentationClass."""

    names: Sequence[str]  # in order, without the background
    by_value: Mapping[int, str]  # number or colour -> name
    background: Sequence[int] = (*BACKGROUND, BORDER_COLOUR)  # values that stand for no class
    listed: str = ""  # the file that lists all classes; empty: other names become classes too

    @classmethod
    def numbered(cls, names: Sequence[str], listed: str = "") -> ClassNames:
        """Classes with the numbers 1, 2, ..."""
        return cls(names=list(dict.fromkeys(names)), by_value=dict(enumerate(names, start=1)), listed=listed)

    def lists(self, name: str, entry: str, warnings: Warnings) -> bool:
        """Whether an object `entry` can have the class `name`; with a warning if the file of the classes lacks it."""
        if not self.listed or name in self.names:
            return True
        warnings.add(
            f"a class that {self.listed} does not list, e.g. {excerpt(name)}", SKIPPED, [entry], kind="no-class"
        )
        return False

    def value_of(self, values: np.ndarray) -> int | None:
        """The most frequent of `values` (P,) of an instance that is not the background; None if all are."""
        found, counts = np.unique(values[~np.isin(values, self.background)], return_counts=True)
        return int(found[counts.argmax()]) if len(found) else None


def holds_instances(root: Path) -> bool:
    """Whether a folder has instances, with or without XML files."""
    return any((root / f"{OBJECT_MAPS}{ending}").is_dir() for ending, _ in PLACES)


def mask_ids(root: Path) -> list[str]:
    """The names of all images with instances, without suffix, sorted."""
    files = (file for ending, suffix in PLACES for file in (root / f"{OBJECT_MAPS}{ending}").glob(f"*{suffix}"))
    return sorted({file.stem for file in files if not is_hidden(file)})


def class_names(root: Path, warnings: Warnings) -> ClassNames | None:
    """The classes that class_names.txt or labelmap.txt in a folder lists; None without such a file."""
    if (root / CLASS_NAMES).is_file():
        listed = clean_lines(root / CLASS_NAMES, warnings)
        if repeated := [name for name, uses in Counter(listed).items() if uses > 1]:
            warnings.note(f"{root / CLASS_NAMES} names {few(repeated)} more than once: these numbers are one class")
        if listed and listed[0].lower() not in (*BACKGROUND_NAMES, *IGNORED_NAMES):
            warnings.note(
                f"{listed[0]!r}, the first line of {CLASS_NAMES}, is the background; if it is a class, add the line "
                f"{BACKGROUND_NAMES[1]} before it"
            )
        return ClassNames.numbered(listed[1:], CLASS_NAMES)
    if (root / LABELMAP).is_file():
        return _of_labelmap([_label(line) for line in clean_lines(root / LABELMAP, warnings, ("#",))])
    return None


def _colour(value: int) -> str:
    """R,G,B as labelmap.txt has it."""
    return f"{value % 256},{value // 256 % 256},{value // 65536}"


def _of_labelmap(labels: Sequence[tuple[str, int | None]]) -> ClassNames:
    """The classes of a labelmap.txt. Their numbers count from 1, without the background, wherever it is listed."""
    rows = [row for row in labels if row[0].lower() not in BACKGROUND_NAMES]
    classes = [(number, *row) for number, row in enumerate(rows, start=1) if row[0].lower() not in IGNORED_NAMES]
    numbers = {number: name for number, name, _ in classes}
    colours = {colour: name for _, name, colour in classes if colour is not None}
    others = {colour for name, colour in labels if name not in numbers.values() and colour is not None}
    return ClassNames(
        names=list(dict.fromkeys(numbers.values())),
        by_value=numbers | colours,
        background=[value for value in (*BACKGROUND, BORDER_COLOUR, *others) if value not in colours],
        listed=LABELMAP,
    )


def _label(line: str) -> tuple[str, int | None]:
    """The name and the colour in a line of labelmap.txt; None without a colour."""
    name, colour, *_ = (*line.rsplit(":", 3), "")
    words = [word.strip() for word in colour.split(",")]
    if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
        return name.strip(), None
    red, green, blue = (int(word) for word in words)
    return name.strip(), red + 256 * green + 65536 * blue


def map_file(root: Path, kind: str, image_id: str) -> Path | None:
    """The file of an image in a folder of the given `kind` (OBJECT_MAPS or CLASS_MAPS); None if there is none."""
    places = (root / f"{kind}{ending}" / f"{image_id}{suffix}" for ending, suffix in PLACES)
    return next((place for place in places if os.path.isfile(place)), None)  # an id may be of any length


def read_map(root: Path, kind: str, image_id: str) -> np.ndarray:
    """The values (H, W) int64 of an image in a folder of the given `kind` (OBJECT_MAPS or CLASS_MAPS).

    Raises FileNotFoundError if there is no file, ValueError or OSError if it cannot be read.
    """
    file = map_file(root, kind, image_id)
    if file is None:
        raise FileNotFoundError(f"{root / kind} has no file of {image_id}")
    if file.suffix == ".png":
        return read_ids(file)
    try:
        values = open_memmap(file, mode="r")  # mapped: a wrong header then takes no memory; refuses Python objects
    except HEADER_ERRORS as error:
        raise ValueError(f"{file} has a wrong header: {error}") from error
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(f"{file} has {values.ndim} axes of {values.dtype}; expected an array (H, W) of integers")
    return np.maximum(values, 0).astype(np.int64)


def read_instances(
    root: Path,
    image_id: str,
    described: VocImage | None,
    names: ClassNames,
    warnings: Warnings,
    unknown: dict[int, list[str]],
) -> list[RawEntry] | None:
    """The instances of an image; None if SegmentationObject has no readable file of it.

    The class of an instance is that of most of its pixels in SegmentationClass. Without that file, or if nothing names
    its values, it is the class of the box in the XML with the largest IoU. The best box of the class also says whether
    the instance is difficult. An instance with a value in SegmentationClass that names no class is added to `unknown`,
    value -> instances; see `warn_of_unknown`.
    """
    try:
        ids = read_map(root, OBJECT_MAPS, image_id)
    except (ValueError, OSError):  # also ImageError
        return None
    in_map = _in_map(ids)
    classes = _classes(root, image_id, ids, warnings) if names.by_value else None
    found: list[RawEntry] = []
    for number, pixels, mask in in_map:
        name, label = f"{image_id}:{number}", None
        if classes is not None:
            value = names.value_of(classes[pixels])
            if value is None:
                what = "an instance without a class in SegmentationClass"
                warnings.add(what, SKIPPED, [name], kind="no-class")
                continue
            if value not in names.by_value:
                unknown.setdefault(value, []).append(name)
                continue
            label = names.by_value[value]
        best = _best_object(pixels, ids.shape[1], described, label)
        label = label if best is None else best.name
        if label is None:
            what = f"no named class in SegmentationClass, and no box in its XML with an IoU of at least {MIN_IOU:g}"
            warnings.add(what, SKIPPED, [name], kind="no-class")
        elif names.lists(label, name, warnings):
            entry: RawEntry = {"id": name, "image_id": image_id, "category": label, "iscrowd": 0, "segmentation": mask}
            found.append(entry | {"difficult": 0 if best is None else difficult(best, name, warnings)})
    annotated = bool(described and described.objects) or bool(in_map)
    warnings.all_skipped([image_id] if annotated and not found else [])
    return found


def warn_of_unknown(unknown: Mapping[int, Sequence[str]], names: ClassNames, warnings: Warnings) -> None:
    """Add one warning about the instances that `read_instances` has added to `unknown`, with their first values."""
    listed = names.listed or "the list of VOC's classes"
    if names.listed == LABELMAP:
        colours = {name: _colour(one) for one, name in names.by_value.items()}  # numbers first, then colours
        known = few([f"{name}: {colour}" for name, colour in colours.items()])
        values = few([_colour(value) for value in unknown])
        what = f"a colour in SegmentationClass that {listed} does not have: {values} (it has {known})"
    else:
        what = f"a number in SegmentationClass that {listed} does not have: {few(list(unknown))}"
    warnings.add(what, SKIPPED, [name for found in unknown.values() for name in found], kind="no-class")


def _in_map(objects: np.ndarray) -> list[tuple[int, np.ndarray, Rle]]:
    """The instances in `objects` (H, W), as `instances` returns them."""
    colours = objects.max(initial=0) > BORDER  # or more than 255 ids: 255 is one of them
    return list(instances(objects, (0, BORDER_COLOUR) if colours else BACKGROUND))


def _classes(root: Path, image_id: str, objects: np.ndarray, warnings: Warnings) -> np.ndarray | None:
    """The classes (H * W,) of the pixels of `objects`; None if there is no readable file of that size."""
    try:
        classes = read_map(root, CLASS_MAPS, image_id)
    except FileNotFoundError:
        return None
    except (ValueError, OSError):  # also ImageError
        classes = np.zeros((0, 0))
    if classes.shape != objects.shape:
        what = "a SegmentationClass that is damaged, or of another size than SegmentationObject"
        warnings.add(what, "not used", [image_id], "image", kind="unreadable-file")
        return None
    return classes.reshape(-1)


def _best_object(pixels: np.ndarray, width: int, described: VocImage | None, label: str | None) -> VocObject | None:
    """The object in the XML with the best IoU with an instance, at least MIN_IOU; None if there is none.

    `pixels` (P,) are the positions of the instance, row by row, in an image of that `width`. With a `label`, only
    objects of that class count.
    """
    rows, columns = np.divmod(pixels, width)
    x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    best, found = MIN_IOU, None
    for one in described.objects if described else []:
        if one.box is None or not one.name or (label is not None and one.name != label):
            continue
        x, y, w, h = one.box
        overlap = max(0.0, min(x + w, x2) - max(x, x1)) * max(0.0, min(y + h, y2) - max(y, y1))
        iou = overlap / (w * h + (x2 - x1) * (y2 - y1) - overlap)
        if iou >= best:
            best, found = iou, one
    return found
