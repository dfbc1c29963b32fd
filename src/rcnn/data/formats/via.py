"""VGG Image Annotator's export (via_region_data.json, VIA 1 and 2).

The class of an object is a region attribute: the only one, or the one called class, label, name, category or type.
Without attributes, all objects have one class, with the name of the data set's folder. Circles and ellipses become
polygons; a rectangle is a box without an outline; points and lines are not objects and are skipped with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.numbers import as_number
from rcnn.data.checks.tables import RawEntry, RawTables, Tables
from rcnn.data.formats.files import annotation_file, find_splits, image_folders
from rcnn.data.formats.options import ReadOptions
from rcnn.data.messages import SKIPPED, Warnings, brief, excerpt, few
from rcnn.text_files import contains_key, read_json

NAME = "VIA"
PATTERNS = (
    "{split}/via_region_data.json",
    "annotations/{split}.json",
    "{split}/annotations.json",
    "via_region_data.json",  # without splits, or the folder of one
    "annotations.json",
    "{split}.json",
)
SPLIT_FILES = ", ".join(pattern for pattern in PATTERNS if "{split}" in pattern)
CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")
ROUND_POINTS = 64  # of a circle's polygon; its area is then .16% too small
SHAPES = {  # shape -> its fields
    "polygon": ("all_points_x", "all_points_y"),
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
IGNORED_SHAPES = ("point", "polyline", "line")


@dataclass(frozen=True, kw_only=True)
class _Region:
    """A region of an image, unchanged from the file."""

    name: str  # its name in warnings: its key, and the image
    image_id: int
    shape: RawEntry
    attributes: RawEntry

    @property
    def kind(self) -> str:
        return str(self.shape.get("name"))


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits in `folder`; `annotations` is the pattern of their files, if it is not a usual one."""
    return find_splits(folder, (annotations,) if annotations else PATTERNS, _holds_via)


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has a VIA export of `split`."""
    file = annotation_file(folder, split, (annotations,) if annotations else PATTERNS)
    return file is not None and _holds_via(file)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split; image and annotation ids count from 1 in the order of the file.

    Raises ValueError or OSError, with the file and what is wrong in it.
    """
    file = annotation_file(folder, split, (options.annotations,) if options.annotations else PATTERNS)
    if file is None:
        raise FileNotFoundError(f"{folder} has no VIA export of split {split!r}")
    entries = _entries(read_json(file), file)
    warnings = Warnings(file)
    regions = [region for number, one in enumerate(entries, start=1) for region in _regions(one, number, warnings)]
    objects, names = _objects(regions, folder.resolve().name, file, warnings)
    left = {region.image_id for region, _ in objects}
    known = [i for i, one in enumerate(entries, start=1) if one["regions"] and isinstance(one["regions"], (list, dict))]
    warnings.all_skipped([i for i in known if i not in left])
    labels = {name: label for label, name in enumerate(sorted(set(names) or {folder.resolve().name}), start=1)}
    raw = RawTables(
        file=file,
        root=folder if options.images is None else options.images,
        folders=image_folders(file, folder, split, options.images),
        images=[{"id": number, "file_name": one["filename"]} for number, one in enumerate(entries, start=1)],
        annotations=[one | {"category_id": labels[name]} for (_, one), name in zip(objects, names, strict=True)],
        categories=[{"id": label, "name": name} for name, label in labels.items()],
        takes_images=True,
        names={one["id"]: f"region {region.name}" for region, one in objects},
    )
    return check_tables(raw, warnings, options.known)


def _objects(
    regions: Sequence[_Region], default: str, file: Path, warnings: Warnings
) -> tuple[list[tuple[_Region, RawEntry]], list[str]]:
    """The regions that are objects, each with its annotation without a category, and their classes.

    All objects have the class `default` if regions have no attributes.
    """
    others = [region.name for region in regions if region.kind in IGNORED_SHAPES]
    warnings.add("a point or a line, which is not an object", SKIPPED, others, "region", kind="region")
    shapes = [region for region in regions if region.kind not in IGNORED_SHAPES]
    attribute = _class_attribute(shapes, file)
    if shapes and attribute is None:
        warnings.note(
            f"no region has an attribute with its class: the class is {default!r}, the name of the folder. To change "
            "it, rename the folder, or add a region attribute called class in VIA"
        )
    objects: list[tuple[_Region, RawEntry]] = []
    names: list[str] = []
    for region in shapes:
        name = default if attribute is None else _class_name(region, attribute, warnings)
        outline = _outline(region, warnings)
        if name and outline is not None:
            names.append(name)
            objects.append((region, {"id": len(names), "image_id": region.image_id, "iscrowd": 0} | outline))
    return objects, names


def _holds_via(file: Path) -> bool:
    """Whether a file has VIA's own name, or contains the keys of its regions; it is not parsed."""
    if file.name == "via_region_data.json":
        return True
    content = file.read_bytes()
    return contains_key(content, "regions") and contains_key(content, "filename")


def _entries(data: object, file: Path) -> list[RawEntry]:
    """The images of a VIA export or project."""
    if isinstance(data, dict) and isinstance(data.get("_via_img_metadata"), dict):
        data = data["_via_img_metadata"]
    entries = list(data.values()) if isinstance(data, dict) else []
    if not entries or not all(isinstance(one, dict) and {"filename", "regions"} <= one.keys() for one in entries):
        raise ValueError(f"{file} is not a VIA export: expected entries with filename and regions")
    return entries


def _regions(entry: RawEntry, image_id: int, warnings: Warnings) -> list[_Region]:
    """The regions of an image with their keys: a dict in VIA 1, a list in VIA 2."""
    regions = entry["regions"]
    if isinstance(regions, dict):
        pairs = [(str(key), region) for key, region in regions.items()]
    elif regions is None or isinstance(regions, list):
        pairs = [(str(place), region) for place, region in enumerate(regions or [])]
    else:
        what = "regions that are neither a list nor an object"
        warnings.add(what, "used as background in training", [image_id], "image", kind="region")
        return []
    found: list[_Region] = []
    for key, region in pairs:
        name = f"{key} of {brief(entry['filename'])}"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            warnings.add("no shape_attributes", SKIPPED, [name], "region", kind="region")
            continue
        attributes = region.get("region_attributes")
        known = attributes if isinstance(attributes, dict) else {}
        if attributes is not None and not isinstance(attributes, dict):
            what = "region_attributes that are not an object {name: value}"
            warnings.add(what, "treated as a region without attributes", [name], "region", kind="region")
        found.append(_Region(name=name, image_id=image_id, shape=shape, attributes=known))
    return found


def _class_attribute(regions: Sequence[_Region], file: Path) -> str | None:
    """The region attribute that is the class; None if no region has an attribute. Raises ValueError if unclear."""
    there = sorted({name for region in regions for name in region.attributes})
    if len(there) <= 1:
        return there[0] if there else None
    for expected in CLASS_ATTRIBUTES:
        for name in there:
            if name.lower() == expected:
                return name
    raise ValueError(
        f"{file}: regions have the attributes {few(there)}, and it is not clear which of them is the class: "
        f"rename that attribute to {' or '.join(CLASS_ATTRIBUTES)}"
    )


def _class_name(region: _Region, attribute: str, warnings: Warnings) -> str:
    """The value of the class attribute: text, or the only ticked box; empty, with a warning, if that is unclear."""
    value = region.attributes.get(attribute)
    if isinstance(value, (dict, list)):  # of checkboxes: {"cat": true, "dog": false}, or the names of those ticked
        ticked = [str(one) for one in value if not isinstance(value, dict) or value[one]]
        if len(ticked) > 1:
            what = f"{len(ticked)} boxes of the class attribute {excerpt(attribute)} ticked ({few(ticked)})"
            what += ", expected one"
            warnings.add(what, SKIPPED, [region.name], "region", kind="region")
            return ""
        value = ticked[0] if ticked else None
    text = str(value).strip() if isinstance(value, (str, int, float)) else ""
    if not text:
        what = f"no {excerpt(attribute)}, which is the class of other regions"
        warnings.add(what, SKIPPED, [region.name], "region", kind="region")
    return text


def _outline(region: _Region, warnings: Warnings) -> RawEntry | None:
    """`segmentation` of a region, or `bbox` of a rectangle; None, with a warning, if its shape cannot be used."""
    kind, shape = region.kind, region.shape
    if kind not in SHAPES:
        warnings.add(
            f"the shape {excerpt(kind)}, expected {', '.join(SHAPES)}", SKIPPED, [region.name], "region", kind="region"
        )
        return None
    missing = [field for field in SHAPES[kind] if field not in shape]
    if missing:
        warnings.add(f"a {kind} without {', '.join(missing)}", SKIPPED, [region.name], "region", kind="region")
        return None
    if kind == "polygon":
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            warnings.add(
                "a polygon with different numbers of x and y coordinates",
                SKIPPED,
                [region.name],
                "region",
                kind="region",
            )
            return None
        return {"segmentation": [[value for point in zip(xs, ys, strict=True) for value in point]]}
    if kind == "rect":
        return {"bbox": [shape[field] for field in SHAPES[kind]]}
    numbers = [as_number(shape[field]) for field in SHAPES[kind]]
    turn = 0.0 if shape.get("theta") is None else as_number(shape["theta"])
    if not all(map(math.isfinite, (*numbers, turn))) or min(numbers[2:]) < 0:
        what = (
            f"{'an' if kind == 'ellipse' else 'a'} {kind} with a value that is not a finite number, or a radius below 0"
        )
        warnings.add(what, SKIPPED, [region.name], "region", kind="region")
        return None
    centre_x, centre_y, radius, *other = numbers
    points = ellipse_points(centre_x, centre_y, radius, *(other or [radius]), turn=turn)
    return {"segmentation": [points.reshape(-1).tolist()]}


def ellipse_points(centre_x: float, centre_y: float, rx: float, ry: float, *, turn: float = 0.0) -> np.ndarray:
    """Points (ROUND_POINTS, 2) x, y on an ellipse, `turn` radians clockwise as seen (y is down, VIA's theta)."""
    angle = np.arange(ROUND_POINTS) * (2 * math.pi / ROUND_POINTS)
    along, across = rx * np.cos(angle), ry * np.sin(angle)
    x = centre_x + along * math.cos(turn) - across * math.sin(turn)
    y = centre_y + along * math.sin(turn) + across * math.cos(turn)
    return np.stack([x, y], axis=1)
