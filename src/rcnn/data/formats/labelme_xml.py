"""LabelMe's XML format: one file per image (Russell et al. 2008), which CVAT exports as "LabelMe 3.0".

The XML files are beside their images, in a folder per split (CVAT), or in the folder itself; or they are in
Annotations/, and the images with the same paths in Images/, as LabelMe's own tool has them. Polygons are outlines, a
polygon of the type "bounding_box" is a box, and `segm` names the image of a mask in Masks/. Deleted objects are not
read.
labelme's JSON files are another format: see labelme.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.numbers import MAX_COORDINATE, as_flag, as_number
from rcnn.data.checks.tables import RawEntry, Tables
from rcnn.data.folders import first_files, images_in, subfolders
from rcnn.data.formats.files import ALL, visible
from rcnn.data.formats.many_files import clean_name, named_tables, note_same_names
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.voc_xml import LABELME, PROBED_BYTES, ROOT_TAG, parsed, text_of
from rcnn.data.images import ImageError, read_ids
from rcnn.data.messages import SKIPPED, Warnings, counted
from rcnn.ops.coco_backend import encode_mask

NAME = "LabelMe XML"
SPLIT_FILES = "{split}/ with LabelMe's XML files and their images, Annotations/{split}/ with Images/{split}/"
ANNOTATIONS = "Annotations"  # LabelMe's own folder of XML files
IMAGES = ("Images", "images", "JPEGImages")  # folders of the images beside it
MASKS = "Masks"  # the folder of masks beside the XML files, or beside Annotations/
PROBED = 5  # XML files of a folder that are opened in search of one of LabelMe's


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """Where the images and masks of a split are."""

    images: Path
    masks: Path


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the subfolders with LabelMe's XML files; "all" for files in the folder itself, or in Annotations/."""
    return set() if annotations else set(_places(folder))


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has LabelMe's XML files of `split`."""
    return split in splits(folder, annotations)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is the name of its file, that of an object this and its number.

    The classes are the names in the split. Only `options.known` has an effect. Raises ValueError or OSError, with the
    file and what is wrong in it.
    """
    place = _places(folder).get(split)
    if place is None:
        raise FileNotFoundError(f"{folder} has no split {split!r} with LabelMe's XML files")
    own = _folders(folder, place)
    warnings = Warnings(place)
    names = images_in(own.images)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    for file in _xml_files(place):
        try:
            root = parsed(file)
        except ValueError:
            damage = "damaged, too large, or with a document type" if file.stat().st_size else "empty (0 bytes)"
            what = f"XML that is {damage}"
            warnings.add(what, "skipped with its image", [file.name], "file", kind="unreadable-file")
            continue
        if root.tag != ROOT_TAG:
            what = f"no root element {ROOT_TAG}, so it is not a LabelMe file"
            warnings.add(what, SKIPPED, [file.name], "file", kind="unreadable-file")
            continue
        size = _size(root)
        name = names.get(file.stem) or os.path.basename(text_of(root, "filename").replace("\\", "/"))
        path = (own.images / (name or f"{file.stem}.jpg")).relative_to(folder).as_posix()
        images.append({"id": file.stem, "file_name": path} | ({"height": size[0], "width": size[1]} if size else {}))
        elements = [one for one in root.findall("object") if not as_flag(text_of(one, "deleted"))]
        objects = list(_objects(elements, file, own.masks, size, warnings))
        found += objects
        warnings.all_skipped([file.stem] if elements and not objects else [])
    note_same_names(own.images, warnings)
    raw = named_tables(file=place, root=folder, folders=(folder, own.images), images=images, annotations=found)
    return check_tables(raw, warnings, options.known)


def _places(folder: Path) -> dict[str, Path]:
    """The folders with the XML files of the splits, by the name of the split."""
    top = folder / ANNOTATIONS
    places = [(one.name, one) for one in subfolders(top)] + [(ALL, top)]
    places += [(one.name, one) for one in subfolders(folder) if one != top] + [(ALL, folder)]
    return {name: place for name, place in places if _holds_labelme(place)}


def _folders(folder: Path, files: Path) -> _Folders:
    """The folders of the split with the XML files in `files`: there, or, as in LabelMe's own tool, in Images, Masks."""
    top = folder / ANNOTATIONS
    if images_in(files) or not files.is_relative_to(top):
        return _Folders(images=files, masks=files / MASKS)
    path = files.relative_to(top)
    places = (folder / name / path for name in IMAGES)
    images = next((place for place in places if place.is_dir()), files)
    return _Folders(images=images, masks=folder / MASKS / path)


def _holds_labelme(place: Path) -> bool:
    """Whether one of the first XML files of a folder has elements of LabelMe."""
    for file in first_files(place, ".xml", PROBED):
        with file.open("rb") as opened:
            start = opened.read(PROBED_BYTES)
        if b"<annotation" in start and LABELME.search(start):
            return True
    return False


def _xml_files(place: Path) -> list[Path]:
    return [file for file in visible(place.glob("*.xml")) if file.is_file()]


def _size(root: Element) -> tuple[int, int] | None:
    """Height and width in the file; None if they are not numbers of pixels."""
    height, width = (as_number(text_of(root, f"imagesize/{field}")) for field in ("nrows", "ncols"))
    known = all(side.is_integer() and 0 < side <= MAX_COORDINATE for side in (height, width))
    return (int(height), int(width)) if known else None


def _objects(
    elements: list[Element], file: Path, masks: Path, size: tuple[int, int] | None, warnings: Warnings
) -> Iterator[RawEntry]:
    """The objects of a file, numbered from 1; `masks` is the folder of their masks."""
    for number, element in enumerate(elements, start=1):
        name = f"{file.stem}:{number}"
        label = clean_name(text_of(element, "name"), name, warnings)
        entry: RawEntry = {"id": name, "image_id": file.stem, "category": label, "iscrowd": 0}
        if not label:
            warnings.add("no name", SKIPPED, [name], kind="no-class")
        elif element.find("polygon") is not None:
            points = [
                (as_number(text_of(one, "x")), as_number(text_of(one, "y"))) for one in element.iterfind("polygon/pt")
            ]
            if not all(abs(value) <= MAX_COORDINATE for point in points for value in point):  # also NaN
                warnings.add("points that are not pairs of finite numbers", SKIPPED, [name], kind="bad-shape")
            elif len(points) < 3:
                warnings.add(f"a polygon of {counted(len(points), 'point')}", SKIPPED, [name], kind="bad-shape")
            elif text_of(element, "type") == "bounding_box":
                xs, ys = zip(*points, strict=True)
                yield entry | {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]}
            else:
                yield entry | {"segmentation": [[value for point in points for value in point]]}
        elif (mask := _mask(element, masks, size, name, warnings)) is not None:
            yield entry | {"segmentation": mask}


def _mask(
    element: Element, masks: Path, size: tuple[int, int] | None, name: str, warnings: Warnings
) -> RawEntry | None:
    """The mask that `segm` names, a file in `masks`; None, with a warning, if it cannot be used."""
    written = os.path.basename(text_of(element, "segm/mask").replace("\\", "/"))
    if not written:
        warnings.add("neither a polygon nor a mask", SKIPPED, [name], kind="bad-shape")
        return None
    try:
        pixels = read_ids(masks / written) > 0
    except (ImageError, OSError):
        warnings.add(f"a mask that is not in {MASKS}/, or cannot be read", SKIPPED, [name], kind="bad-mask")
        return None
    if size is not None and pixels.shape != size:
        warnings.add("a mask of another size than its image", SKIPPED, [name], kind="bad-mask")
    elif not pixels.any():
        warnings.add("a mask without pixels in the image", SKIPPED, [name], kind="empty-mask")
    else:
        return dict(encode_mask(pixels))
    return None
