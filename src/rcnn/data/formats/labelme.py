"""labelme's format: one JSON file per image (https://github.com/wkentaro/labelme, versions 3 to 5).

A split is a subfolder; files in the folder itself are the split "all". Polygons, circles and masks are objects with
outlines; a rectangle is a box without an outline; points and lines are skipped with a warning. Shapes with the same
label and group_id are the parts of one object. Files of other tools, without `version`, are read as well.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.ids import as_id
from rcnn.data.checks.numbers import MAX_COORDINATE, as_number
from rcnn.data.checks.tables import Id, RawEntry, Tables
from rcnn.data.folders import first_files, images_in, subfolders
from rcnn.data.formats.files import ALL, visible
from rcnn.data.formats.many_files import named_tables
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.via import ellipse_points
from rcnn.data.images import IMAGE_SUFFIXES, image_size, read_ids
from rcnn.data.messages import SKIPPED, Warnings, counted, excerpt, printable
from rcnn.ops.coco_backend import Rle, as_rle, encode_mask, encode_region, rle_mask
from rcnn.text_files import OTHER_ENCODING, NotUnicodeError, contains_key, lines_of, read_json

NAME = "labelme"
SUBFOLDERS = ("annotations", "labels", "json", "images", "ann")  # other folders that may contain the files of a split
SPLIT_FILES = "labelme's JSON files in {split}/, " + ", ".join(f"{name}/{{split}}/" for name in SUBFOLDERS)
LABELS = "labels.txt"  # optional: the names of the classes in order, as for labelme's own tools
NO_CLASS = ("__ignore__", "_background_")  # labels that labelme's tools do not count as classes
POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")
IGNORED_SHAPES = ("point", "points", "line", "linestrip")
CROWD_FLAGS = ("crowd", "iscrowd")
OPTIONAL = {"flags": dict, "group_id": (int, float, str), "difficult": bool}  # fields of a shape, and their types
MAX_PROBED = 10  # files that are opened in search of a labelme file
START = 1 << 16  # bytes at the start of a file, in which most files have their shapes
MAX_BYTES = 32 << 20  # largest file that is searched as a whole: some have the embedded image before the shapes


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
    """Names of the subfolders with labelme files, and "all" if they are in `folder` itself."""
    if annotations:
        return set()
    names = {one.name for place in (folder, *(folder / sub for sub in SUBFOLDERS)) for one in subfolders(place)}
    return {name for name in (names - set(SUBFOLDERS)) | {ALL} if _place(folder, name) is not None}


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has labelme files of `split`."""
    return not annotations and _place(folder, split) is not None


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is the stem of its JSON file, that of an object the
    stem and the number of its first shape.

    Only `options.known` has an effect. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    place = _place(folder, split)
    if place is None:
        raise FileNotFoundError(f"{folder} has no labelme files of split {split!r}")
    warnings = Warnings(place)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    listed = _class_names(folder)
    elsewhere = set[str]()  # the images outside the folder
    beside = images_in(place)
    for file, data in _contents(place, warnings):
        size = _size(data)
        name = _image_name(data, file, folder, beside)
        if os.path.isabs(name):
            elsewhere.add(name)
        images.append({"id": file.stem, "file_name": name} | ({"height": size[0], "width": size[1]} if size else {}))
        parts = list(_parts(data["shapes"], file, size, listed, warnings))
        if data["shapes"] and not parts:
            warnings.all_skipped([file.stem])
        found += [_object(one, size) | {"image_id": file.stem} for one in _grouped(parts)]
    _note_unused(beside, images, warnings)
    for other in _places(folder, split):
        if other != place and _holds_labelme(other):
            second = {file.stem for file in _json_files(other)}
            warnings.second_labels(other, place, [image["id"] for image in images if image["id"] in second])
    root = _common_root(folder, elsewhere, images) if elsewhere else folder
    raw = named_tables(
        file=place,
        root=root,
        folders=_image_folders(root, folder, place, split),
        images=images,
        annotations=found,
        names=listed,
    )
    return check_tables(raw, warnings, options.known)


def _image_folders(root: Path, folder: Path, place: Path, split: str) -> tuple[Path, ...]:
    """Where the images of a split with the files in `place` may be, in order."""
    images = folder / "images"
    return tuple(
        dict.fromkeys((root, folder, place, images, folder / split, images / split, folder / split / "images"))
    )


def _place(folder: Path, split: str) -> Path | None:
    """The folder with the labelme files of a split, the first of several; None if there is none."""
    return next((place for place in _places(folder, split) if _holds_labelme(place)), None)


def _places(folder: Path, split: str) -> list[Path]:
    """Where the labelme files of a split may be, in order."""
    own = ["", ALL] if split == ALL else [split]
    places = [
        *(folder / name for name in own),
        *(folder / sub / name for sub in SUBFOLDERS for name in own),
        *(folder / name / sub for sub in SUBFOLDERS for name in own),
    ]
    return list(dict.fromkeys(places))


def _holds_labelme(place: Path) -> bool:
    """Whether one of the first JSON files in a folder contains labelme's key "shapes"."""
    try:
        return any(map(_has_shapes, first_files(place, ".json", MAX_PROBED)))
    except OSError:
        return False


def _has_shapes(path: Path) -> bool:
    with path.open("rb") as file:
        if contains_key(file.read(START), "shapes"):
            return True
        file.seek(0)
        return os.fstat(file.fileno()).st_size <= MAX_BYTES and contains_key(file.read(), "shapes")


def _json_files(place: Path) -> list[Path]:
    return [file for file in visible(place.glob("*.json")) if file.is_file()]


def _contents(place: Path, warnings: Warnings) -> Iterator[tuple[Path, RawEntry]]:
    """The labelme files in a folder and their content; other files and damaged ones are skipped with a warning."""
    for file in _json_files(place):
        try:
            data = read_json(file)
        except ValueError as error:
            what = "content that is not JSON" if file.stat().st_size else "no content (0 bytes)"
            if isinstance(error, NotUnicodeError):
                what = OTHER_ENCODING
            warnings.add(what, "skipped with its image", [file.name], "file", kind="unreadable-file")
            continue
        if isinstance(data, dict) and isinstance(data.get("shapes"), list):
            yield file, data
        else:
            warnings.add(
                "no list of shapes, so it is not a labelme file", SKIPPED, [file.name], "file", kind="unreadable-file"
            )


def _image_name(data: RawEntry, file: Path, root: Path, beside: dict[str, str]) -> str:
    """The path of an image within `root`: imagePath, else an image beside the file with its stem, else the file itself.

    An imagePath that is relative to the file may lead to an image outside `root`; its path is then absolute. If there
    is no image, the path as it is written: `check_images` searches for the name elsewhere.
    """
    here = os.path.relpath(file.parent, root)
    written = data.get("imagePath")
    path = written.replace("\\", "/") if isinstance(written, str) and "\0" not in written else ""
    joined = os.path.normpath(os.path.join(here, path)).replace(os.sep, "/")
    if path and not joined.startswith("..") and not os.path.isabs(joined) and os.path.isfile(root / joined):
        return joined
    outside = os.path.realpath(os.path.join(file.parent, path))
    is_image = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
    if is_image and not os.path.isabs(path) and os.path.isfile(outside):
        return outside
    if file.stem in beside:
        return os.path.normpath(os.path.join(here, beside[file.stem])).replace(os.sep, "/")
    if data.get("imageData"):
        return os.path.normpath(os.path.join(here, file.name)).replace(os.sep, "/")
    return path or f"{file.stem} (no imagePath in {file.name})"


def _common_root(folder: Path, elsewhere: Collection[str], images: Sequence[RawEntry]) -> Path:
    """The folder that contains `folder` and the files `elsewhere`; the names of the `images` become paths within it."""
    inside = os.path.realpath(folder)
    root = os.path.commonpath([inside, *(os.path.dirname(path) for path in elsewhere)])
    for image in images:
        path = os.path.join(inside, str(image["file_name"]))  # an absolute name stays as it is
        if os.path.isfile(path):
            image["file_name"] = os.path.relpath(path, root).replace(os.sep, "/")
    return Path(root)


def _size(data: RawEntry) -> tuple[int, int] | None:
    """Height and width in the file; None if they are not numbers of pixels."""
    height, width = (as_number(data.get(field)) for field in ("imageHeight", "imageWidth"))
    if not all(side.is_integer() and 0 < side <= MAX_COORDINATE for side in (height, width)):
        return None
    return int(height), int(width)


def _parts(
    shapes: Sequence[object], file: Path, size: tuple[int, int] | None, listed: Sequence[str], warnings: Warnings
) -> Iterator[_Part]:
    """The shapes of a file that are objects or parts of objects. `listed`: all classes; none: every label is one."""
    for number, shape in enumerate(shapes, start=1):
        name = f"{file.stem}:{number}"
        if not isinstance(shape, dict):
            warnings.add("a shape that is not an object with label and points", SKIPPED, [name], kind="bad-shape")
            continue
        for field, types in OPTIONAL.items():
            if shape.get(field) is not None and not isinstance(shape[field], types):
                warnings.add(f"{field} of a wrong type", "not used", [name], kind="bad-shape")
        kind = shape.get("shape_type")
        kind = "polygon" if kind is None or kind == "" else kind  # version 3 has polygons only
        label = shape.get("label")
        text = printable(str(label)).strip() if isinstance(label, (str, int, float)) else ""
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
    return encode_region(max(0, left), max(0, top), inside, size)


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


def _class_names(folder: Path) -> list[str]:
    """The classes in labels.txt, in its order; none without that file."""
    file = folder / LABELS
    lines = lines_of(file) if file.is_file() else []
    return list(dict.fromkeys(line for line in lines if line not in NO_CLASS))


def _note_unused(beside: dict[str, str], images: Sequence[RawEntry], warnings: Warnings) -> None:
    """Note the images without a JSON file: they may have objects that are not annotated."""
    used = {os.path.basename(str(image["file_name"])) for image in images}
    unused = [name for name in beside.values() if name not in used]
    if unused:
        warnings.note(
            f"{counted(len(unused), 'image')} without a JSON file {'is' if len(unused) == 1 else 'are'} not used; an "
            "image without objects is used if labelme has saved a file for it"
        )
