"""VGG Image Annotator's export (via_region_data.json, VIA 1 and 2) -> COCO's tables.

An object's class is what its region attribute says (the only one, or the one called class, label, name, category or
type); where no region has any, all are of one class, called as the data set's folder is. Circles and ellipses become
polygons; a rectangle is a box without an outline; points and lines are no objects and are left out with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.formats.coco import Table, read_json
from rcnn.data.segmentations import complete
from rcnn.data.warnings import few

CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")
ROUND_POINTS = 64  # of a circle's polygon, whose area is then .16% too small
SHAPES = {  # the numbers that each shape has
    "polygon": ("all_points_x", "all_points_y"),
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}


def via_images(data: Any) -> dict[str, Any] | None:
    """The images of a parsed VIA export or project, by VIA's keys; None where it is neither."""
    if isinstance(data, dict) and isinstance(data.get("_via_img_metadata"), dict):
        data = data["_via_img_metadata"]
    if not isinstance(data, dict) or not data:
        return None
    there = all(isinstance(entry, dict) and {"filename", "regions"} <= entry.keys() for entry in data.values())
    return data if there else None


def via_to_coco(data: Any, *, file: Path, one_class: str) -> tuple[Table, tuple[str, ...]]:
    """COCO's tables of a parsed VIA export, ids from 1 in the order of the file, and warnings about what was left out.

    `one_class` is the name of all objects where regions have no attributes. Raises ValueError, with the image and the
    region, for what is neither a shape nor a class.
    """
    entries = via_images(data)
    if entries is None:
        raise ValueError(f"{file} is not a VIA export: wanted entries with filename and regions")
    regions = [
        (entry["filename"], number, place, region)
        for number, entry in enumerate(entries.values(), start=1)
        for place, region in _regions(entry, file)
    ]
    left_out = [(name, place) for name, _, place, region in regions if _shape(region) in ("point", "polyline", "line")]
    regions = [found for found in regions if _shape(found[3]) not in ("point", "polyline", "line")]
    attribute = _class_attribute([region for *_, region in regions], file)
    annotations, names = [], []
    for name, image_id, place, region in regions:
        here = f"{file}: region {place} of {name}"
        names.append(one_class if attribute is None else _class_name(region, attribute, here))
        annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0} | _outline(region, here))
    categories = {name: label for label, name in enumerate(sorted(set(names) or {one_class}), start=1)}
    for annotation, name in zip(annotations, names, strict=True):
        annotation["category_id"] = categories[name]
    images = [{"id": number, "file_name": e["filename"]} for number, e in enumerate(entries.values(), start=1)]
    tables = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for name, label in categories.items()],
    }
    told = few([f"region {place} of {name}" for name, place in left_out])
    lines = (f"{file}: {len(left_out)} points or lines are no objects ({told}): left out",) if left_out else ()
    return tables, lines


def read_annotations(file: Path, sizes: dict[Any, tuple[int, int]], *, one_class: str) -> list[Table]:
    """All annotations of a VIA export in COCO's form; `sizes` are (height, width) by image id."""
    tables, _ = via_to_coco(read_json(file), file=file, one_class=one_class)
    complete(tables["annotations"], sizes, file)
    return tables["annotations"]


def _regions(entry: dict[str, Any], file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The regions of an image with their keys: a dict in VIA 1, a list in VIA 2."""
    regions = entry["regions"]
    pairs = list(regions.items()) if isinstance(regions, dict) else list(enumerate(regions or []))
    for place, region in pairs:
        if not isinstance(region, dict) or not isinstance(region.get("shape_attributes"), dict):
            raise ValueError(
                f"{file}: region {place} of {entry['filename']} has no shape_attributes; export it from VIA again"
            )
    return [(str(place), region) for place, region in pairs]


def _shape(region: dict[str, Any]) -> str:
    return str(region["shape_attributes"].get("name"))


def _class_attribute(regions: Sequence[dict[str, Any]], file: Path) -> str | None:
    """The region attribute that tells the class; None where no region has one."""
    there = sorted({name for region in regions for name in region.get("region_attributes") or {}})
    if len(there) <= 1:
        return there[0] if there else None
    for wanted in CLASS_ATTRIBUTES:
        for name in there:
            if name.lower() == wanted:
                return name
    raise ValueError(
        f"{file}: regions have the attributes {few(there)}, and which of them is the class cannot be told: "
        f"call it {' or '.join(CLASS_ATTRIBUTES)}"
    )


def _class_name(region: dict[str, Any], attribute: str, here: str) -> str:
    """The value of the class attribute: text, or the one box that is ticked."""
    value = (region.get("region_attributes") or {}).get(attribute)
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    text = "" if value is None else str(value).strip()
    if not text:
        raise ValueError(f"{here} has no {attribute!r}, which is the class of other regions: give it one in VIA")
    return text


def _outline(region: dict[str, Any], here: str) -> Table:
    """`segmentation`, or `bbox` for a rectangle, of a region."""
    shape = region["shape_attributes"]
    kind = _shape(region)
    if kind not in SHAPES:
        raise ValueError(f"{here} is a {kind!r}; wanted {', '.join(SHAPES)}")
    try:
        numbers = [np.asarray(shape[field], dtype=np.float64) for field in SHAPES[kind]]
        turn = float(shape.get("theta") or 0.0)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{here} is a {kind} without {', '.join(SHAPES[kind])} as numbers: export it from VIA again"
        ) from error
    if kind == "rect":
        return {"bbox": [float(value) for value in numbers]}
    if kind == "polygon":
        x, y = numbers
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"{here} has {x.size} x and {y.size} y coordinates; wanted as many of each")
        points = np.stack([x, y], axis=1)
    else:
        centre_x, centre_y, radius, *other = (float(value) for value in numbers)
        points = ellipse_points(centre_x, centre_y, radius, *(other or [radius]), turn=turn)
    return {"segmentation": [points.reshape(-1).tolist()]}


def ellipse_points(centre_x: float, centre_y: float, rx: float, ry: float, *, turn: float = 0.0) -> np.ndarray:
    """Points (ROUND_POINTS, 2) x, y on an ellipse, `turn` radians clockwise as seen (y is down, VIA's theta)."""
    angle = np.arange(ROUND_POINTS) * (2 * math.pi / ROUND_POINTS)
    along, across = rx * np.cos(angle), ry * np.sin(angle)
    x = centre_x + along * math.cos(turn) - across * math.sin(turn)
    y = centre_y + along * math.sin(turn) + across * math.cos(turn)
    return np.stack([x, y], axis=1)
