"""labelme's format: one JSON file per image (https://github.com/wkentaro/labelme, versions 3 to 5).

A split is a subfolder; files in the folder itself are the split "all". Polygons, circles and masks are objects with
outlines; a rectangle is a box without an outline; points and lines are skipped with a warning. Shapes with the same
label and group_id are the parts of one object. Files of other tools, without `version`, are read as well.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.ids import as_id
from rcnn.data.checks.numbers import MAX_COORDINATE, as_number
from rcnn.data.checks.tables import Id, RawEntry, Tables
from rcnn.data.folders import images_in, subfolders
from rcnn.data.formats.files import ALL, SPLIT_NAME
from rcnn.data.formats.labelme_places import (
    SUBFOLDERS,
    common_root,
    counterparts,
    holds_labelme,
    image_folders,
    image_name,
    images_beside,
    json_files,
    nested_siblings,
    note_deeper,
    note_nested,
    note_others,
    note_unused,
    place_of,
    places_of,
    subfolders_of,
)
from rcnn.data.formats.many_files import clean_lines, clean_name, named_tables
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.via import ellipse_points
from rcnn.data.images import image_size, read_ids
from rcnn.data.messages import SKIPPED, Warnings, counted, excerpt
from rcnn.ops.coco_backend import Rle, as_rle, encode_mask, encode_pasted, rle_mask
from rcnn.text_files import OTHER_ENCODING, NotUnicodeError, read_json

NAME = "labelme"
SPLIT_FILES = "labelme's JSON files in {split}/, " + ", ".join(f"{name}/{{split}}/" for name in SUBFOLDERS)
LABELS = "labels.txt"  # optional: the names of the classes in order, as for labelme's own tools
NO_CLASS = ("__ignore__", "_background_")  # labels that labelme's tools do not count as classes
POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")
IGNORED_SHAPES = ("point", "points", "line", "linestrip")
CROWD_FLAGS = ("crowd", "iscrowd")
OPTIONAL = {"flags": dict, "group_id": (int, float, str), "difficult": bool}  # fields of a shape, and their types


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A shape that is an object, or part of one."""

    name: str  # its name in warnings: the file, and the number of the shape from 1
    label: str
    group: Id | None  # shapes with the same group are one object; None: an object of its own
    crowd: bool
    difficult: bool
    polygon: list[float] | None = None  # x, y, x, y, ..
    box: tuple[float, float, float, float] | None = None  # x, y, width, height
    mask: Rle | None = None


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the subfolders with labelme files, and "all" if they are in `folder` itself.

    Beside such, also the subfolders train, val, ... with files in subfolders only, which labelme_nested.py reads.
    """
    if annotations:
        return set()
    subs = subfolders_of(folder)
    names = {one.name for place in (folder, *(folder / sub for sub in subs)) for one in subfolders(place)}
    found = {name for name in (names - set(subs)) | {ALL} if place_of(folder, name) is not None}
    return found | {one.name for one in nested_siblings(folder) if SPLIT_NAME.fullmatch(one.name)} if found else found


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has labelme files of `split`."""
    return not annotations and place_of(folder, split) is not None


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is the stem of its JSON file, that of an object the
    stem and the number of its first shape.

    Only `options.known` has an effect. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    place = place_of(folder, split)
    if place is None:
        raise FileNotFoundError(f"{folder} has no labelme files of split {split!r}")
    others = [other for other in places_of(folder, split) if other != place and holds_labelme(other)]
    warnings = Warnings(place)
    if split != ALL:  # the subfolders of the folder itself are splits
        note_deeper(place, others, warnings)
        note_nested(folder, warnings)
    return read_files(folder, split, place, json_files(place), options, warnings, others)


def read_files(
    folder: Path,
    split: str,
    place: Path,
    files: Sequence[Path],
    options: ReadOptions,
    warnings: Warnings,
    others: Sequence[Path] = (),
) -> Tables:
    """The checked tables of the labelme `files` of a split, which are in `place` or below; see `read`.

    The id of an image is the path of its file within `place`, without suffix. `others` are folders with second files of
    these images, which are only reported. Raises as `read` does.
    """
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    listed = _class_names(folder, warnings)
    elsewhere = set[str]()  # the images outside the folder
    beside = {place: images_in(place)} | images_beside(files)
    for file, data in _contents(files, place, warnings):
        size, one = _size(data), file.relative_to(place).with_suffix("").as_posix()
        name = image_name(data, file, folder, beside[file.parent])
        if os.path.isabs(name):
            elsewhere.add(name)
        images.append({"id": one, "file_name": name} | ({"height": size[0], "width": size[1]} if size else {}))
        parts = list(_parts(data["shapes"], one, size, listed, warnings))
        if data["shapes"] and not parts:
            warnings.all_skipped([one])
        found += [_object(group, size) | {"image_id": one} for group in _grouped(parts)]
    note_unused(folder, beside | counterparts(folder, place, split), images, warnings)
    for other in others:
        second = {file.stem for file in json_files(other)}
        warnings.second_labels(other, place, [image["id"] for image in images if image["id"] in second])
        note_others(other, place, {file.stem for file in files}, warnings)
    root = common_root(folder, elsewhere, images) if elsewhere else folder
    raw = named_tables(
        file=place,
        root=root,
        folders=image_folders(root, folder, place, split),
        images=images,
        annotations=found,
        names=listed,
    )
    return check_tables(raw, warnings, options.known)


def _contents(files: Sequence[Path], place: Path, warnings: Warnings) -> Iterator[tuple[Path, RawEntry]]:
    """The labelme files and their content; other files and damaged ones are skipped with a warning."""
    for file in files:
        name = file.relative_to(place).as_posix()
        try:
            data = read_json(file)
        except ValueError as error:
            what = "content that is not JSON" if file.stat().st_size else "no content (0 bytes)"
            if isinstance(error, NotUnicodeError):
                what = OTHER_ENCODING
            warnings.add(what, "skipped with its image", [name], "file", kind="unreadable-file")
            continue
        if isinstance(data, dict) and isinstance(data.get("shapes"), list):
            yield file, data
        else:
            warnings.add(
                "no list of shapes, so it is not a labelme file", SKIPPED, [name], "file", kind="unreadable-file"
            )


def _size(data: RawEntry) -> tuple[int, int] | None:
    """Height and width in the file; None if they are not numbers of pixels."""
    height, width = (as_number(data.get(field)) for field in ("imageHeight", "imageWidth"))
    if not all(side.is_integer() and 0 < side <= MAX_COORDINATE for side in (height, width)):
        return None
    return int(height), int(width)


def _parts(
    shapes: Sequence[object], image: str, size: tuple[int, int] | None, listed: Sequence[str], warnings: Warnings
) -> Iterator[_Part]:
    """The shapes of a file that are objects or parts of objects, named by the id of the `image` and their number.

    `listed`: all classes; none: every label is one.
    """
    for number, shape in enumerate(shapes, start=1):
        name = f"{image}:{number}"
        if not isinstance(shape, dict):
            warnings.add("a shape that is not an object with label and points", SKIPPED, [name], kind="bad-shape")
            continue
        for field, types in OPTIONAL.items():
            if shape.get(field) is not None and not isinstance(shape[field], types):
                warnings.add(f"{field} of a wrong type", "not used", [name], kind="bad-shape")
        kind = shape.get("shape_type")
        kind = "polygon" if kind is None or kind == "" else kind  # version 3 has polygons only
        label = shape.get("label")
        text = clean_name(str(label), name, warnings) if isinstance(label, (str, int, float)) else ""
        if kind in IGNORED_SHAPES:
            warnings.add(f"the shape_type {kind}, which is not an object", SKIPPED, [name], kind="not-an-object")
        elif text in NO_CLASS:
            warnings.add(f"the label {text}, which is not a class", SKIPPED, [name], kind="not-an-object")
        elif not text:
            warnings.add("no label", SKIPPED, [name], kind="no-class")
        elif listed and text not in listed:
            warnings.add(f"the label {excerpt(text)}, which {LABELS} does not list", SKIPPED, [name], kind="no-class")
        else:
            outline = _outline(shape, str(kind), size, name, warnings)
            if outline is not None:
                flags = shape.get("flags")
                yield _Part(
                    name=name,
                    label=text,
                    group=_group(shape.get("group_id")),
                    crowd=isinstance(flags, dict) and any(flags.get(flag) is True for flag in CROWD_FLAGS),
                    difficult=shape.get("difficult") is True
                    or (isinstance(flags, dict) and flags.get("difficult") is True),
                    polygon=outline if isinstance(outline, list) else None,
                    box=outline if isinstance(outline, tuple) else None,
                    mask=outline if isinstance(outline, dict) else None,
                )


def _group(value: object) -> Id | None:
    """The number or name of a group, 1 for 1.0; None for a shape that is an object of its own."""
    return None if value == "" else as_id(value)


Outline = list[float] | tuple[float, float, float, float] | Rle | None


def _outline(shape: RawEntry, kind: str, size: tuple[int, int] | None, name: str, warnings: Warnings) -> Outline:
    """The polygon, box or mask of a shape; None, with a warning, if it cannot be used."""
    points = _points(shape.get("points"))
    if points is None:
        warnings.add("points that are not pairs of finite numbers", SKIPPED, [name], kind="bad-shape")
    elif kind in POLYGONS and len(points) >= 3:
        return [value for point in points for value in point]
    elif kind == "rectangle" and len(points) in (2, 4):  # two opposite corners, or all four
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    elif kind == "circle" and len(points) == 2:  # the centre, and a point on the circle
        radius = math.dist(points[0], points[1])
        circle: list[float] = ellipse_points(*points[0], radius, radius).reshape(-1).tolist()
        return circle
    elif kind == "mask" and points:
        return _mask(shape.get("mask"), points[0], size, name, warnings)
    elif kind in (*POLYGONS, "rectangle", "circle", "mask"):
        warnings.add(f"a {kind} of {counted(len(points), 'point')}", SKIPPED, [name], kind="bad-shape")
    else:
        what = f"the shape_type {excerpt(kind)}; expected polygon, rectangle, circle or mask"
        warnings.add(what, SKIPPED, [name], kind="bad-shape")
    return None


def _points(value: object) -> list[tuple[float, float]] | None:
    """Points x, y; None if some are not finite, or far outside any image."""
    points: list[tuple[float, float]] = []
    for point in value if isinstance(value, list) else [None]:
        if not isinstance(point, list) or len(point) != 2:
            return None
        x, y = as_number(point[0]), as_number(point[1])
        if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):  # also NaN
            return None
        points.append((x, y))
    return points


def _mask(
    encoded: object, corner: tuple[float, float], size: tuple[int, int] | None, name: str, warnings: Warnings
) -> Rle | None:
    """The mask of a shape of type mask: the pixels of a PNG, with its top left pixel at `corner`."""
    if size is None:
        warnings.add("a mask in a file without imageHeight and imageWidth", SKIPPED, [name], kind="bad-shape")
        return None
    try:
        if not isinstance(encoded, str):
            raise ValueError("not text")
        content = base64.b64decode(encoded, validate=True)
        sides = image_size(content)
        if sides[0] > size[0] + 1 or sides[1] > size[1] + 1:
            raise ValueError("larger than the image")
        pixels = read_ids(content) > 0
    except ValueError:  # also ImageError
        warnings.add(
            "a mask that is not a PNG in base64, or is larger than its image", SKIPPED, [name], kind="bad-mask"
        )
        return None
    left, top = round(corner[0]), round(corner[1])
    inside = pixels[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    if not inside.any():
        warnings.add("a mask without pixels in the image", SKIPPED, [name], kind="empty-mask")
        return None
    return encode_pasted(max(0, left), max(0, top), inside, size)


def _grouped(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The parts of each object, in the order of their first parts."""
    objects: dict[object, list[_Part]] = {}
    for part in parts:
        key = part.name if part.group is None else (part.label, type(part.group), part.group)
        objects.setdefault(key, []).append(part)
    return list(objects.values())


def _object(parts: Sequence[_Part], size: tuple[int, int] | None) -> RawEntry:
    """The annotation of an object, without its image.

    If all parts are rectangles, the object is the box around them; otherwise a rectangle is the polygon of its corners.
    If a part is a mask, the object is the mask of all parts; otherwise it is polygons.
    """
    first = parts[0]
    entry: RawEntry = {"id": first.name, "category": first.label, "iscrowd": int(any(part.crowd for part in parts))}
    if any(part.difficult for part in parts):
        entry["difficult"] = 1
    boxes = [part.box for part in parts if part.box is not None]
    if len(boxes) == len(parts):
        return entry | {"bbox": _around(boxes)}
    polygons = [part.polygon for part in parts if part.polygon is not None] + [_corners(box) for box in boxes]
    masks = [part.mask for part in parts if part.mask is not None]
    if not masks or size is None:
        return entry | {"segmentation": polygons}
    if len(masks) == 1 and not polygons:
        return entry | {"segmentation": masks[0]}
    pixels = [rle_mask(mask) for mask in masks]
    pixels += [rle_mask(as_rle(polygons, *size))] if polygons else []
    return entry | {"segmentation": encode_mask(np.logical_or.reduce(pixels))}


def _corners(box: tuple[float, float, float, float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _around(boxes: Sequence[tuple[float, float, float, float]]) -> list[float]:
    """The box x, y, width, height around boxes."""
    x, y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    return [x, y, max(box[0] + box[2] for box in boxes) - x, max(box[1] + box[3] for box in boxes) - y]


def _class_names(folder: Path, warnings: Warnings) -> list[str]:
    """The classes in labels.txt, in its order; none without that file."""
    file = folder / LABELS
    lines = clean_lines(file, warnings) if file.is_file() else []
    return list(dict.fromkeys(line for line in lines if line not in NO_CLASS))
