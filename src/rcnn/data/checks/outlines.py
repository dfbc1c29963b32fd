"""Segmentations: polygons in any of the ways that tools write them, and run lengths.

COCO's form is a list of polygons [[x, y, x, y, ...], ...], or a dict of run lengths {"size": ..., "counts": ...}.

Letters: A annotations, P parts of all polygons, R run lengths.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import chain

import numpy as np

from rcnn.data.checks.numbers import as_number
from rcnn.data.checks.run_lengths import readable_rles
from rcnn.data.checks.tables import Id
from rcnn.data.messages import Warnings
from rcnn.ops.coco_backend import Rle, rle_areas, rle_boxes

Polygons = list[list[float]]
Outline = Polygons | Rle | None
NUMERIC = frozenset((int, float))
MIN_NUMBERS = 6  # x and y of three points
NOT_POLYGONS = "a segmentation that is neither polygons [[x, y, x, y, ...], ...] nor RLE"
THIN = "a polygon of fewer than three points, or an odd number of coordinates"
NOT_FINITE = "a polygon with a coordinate that is not finite, or far outside the image"
FLAT = "a segmentation that is one polygon without the outer list"
POINTS = "a segmentation of points [[x, y], ...]"
TEXT = "a polygon with coordinates that are text"
NO_PIXELS = "RLE without a pixel"
FAULTS = {  # what is wrong -> kind of fault, and what is done about it
    NOT_POLYGONS: ("bad-outline", "the outline was skipped, the box is used"),
    THIN: ("short-polygon", "that part was skipped"),
    NOT_FINITE: ("polygon-not-finite", "that part was skipped"),
    FLAT: ("outline-form", "read as one polygon"),
    POINTS: ("outline-form", "read as polygons of these points"),
    TEXT: ("text-number", "read as numbers"),
    NO_PIXELS: ("empty-mask", "the mask was skipped, the box is used"),
}


def check_outlines(
    values: Sequence[object], sizes: np.ndarray, limits: np.ndarray, ids: Sequence[Id], warnings: Warnings
) -> list[Outline]:
    """The outline of each annotation; None if it has none that can be used.

    `sizes` (A, 2) int64 are height and width of the images, `limits` (A,) the largest coordinates that are accepted.
    """
    outlines: list[Outline] = [None] * len(values)
    masks: dict[int, Rle] = {}
    faults: dict[str, list[Id]] = {}
    for place, (value, limit) in enumerate(zip(values, limits.tolist(), strict=True)):
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "counts" in value[0]:
            value = value[0]
        if value is None or value == []:
            continue
        if isinstance(value, dict) and "counts" in value:
            if value["counts"] in (None, "", []):
                faults.setdefault(NO_PIXELS, []).append(ids[place])
            else:
                masks[place] = value
        elif isinstance(value, list) and all(_is_polygon(part, limit) for part in value):
            outlines[place] = value
        else:
            outlines[place], wrong = _polygons(value, limit)
            for what in wrong:
                faults.setdefault(what, []).append(ids[place])
    for what, wrong_ids in faults.items():
        kind, action = FAULTS[what]
        warnings.add(what, action, wrong_ids, kind=kind)
    _check_masks(outlines, masks, sizes, ids, warnings)
    return _in_pixels(outlines, sizes, ids, warnings)


def _is_polygon(part: object, limit: float) -> bool:
    """Whether a part has COCO's form and its numbers are plausible."""
    return (
        isinstance(part, list)
        and len(part) >= MIN_NUMBERS
        and len(part) % 2 == 0
        and NUMERIC.issuperset(map(type, part))
        and _plausible(part, limit)
    )


def _plausible(part: Sequence[float], limit: float) -> bool:
    try:
        return math.isfinite(sum(part)) and max(part) <= limit and min(part) >= -limit
    except OverflowError:  # integers beyond float64
        return False


def _polygons(value: object, limit: float) -> tuple[Polygons | None, list[str]]:
    """The polygons in a segmentation that is not in COCO's form, and what is wrong with it."""
    if not isinstance(value, list):
        return None, [NOT_POLYGONS]
    wrong: list[str] = []
    if not any(isinstance(part, (list, dict)) for part in value):
        parts: list[object] = [value]
        wrong.append(FLAT)
    elif (whole := _flattened(value)) is not None:
        parts = [whole]
        wrong.append(POINTS)
    else:
        flat = [_flattened(part) for part in value]
        parts = [part if points is None else points for part, points in zip(value, flat, strict=True)]
        wrong += [POINTS] if any(points is not None for points in flat) else []
    kept: Polygons = []
    for part in parts:
        if isinstance(part, list) and not part:
            continue
        numbers = [as_number(one) for one in part] if isinstance(part, list) else [math.nan]
        if isinstance(part, list) and (len(part) < MIN_NUMBERS or len(part) % 2):
            wrong.append(THIN)
        elif not isinstance(part, list) or not all(isinstance(one, (int, float, str)) for one in part):
            return None, [NOT_POLYGONS]
        elif not _plausible(numbers, limit):
            wrong.append(NOT_FINITE)
        else:
            wrong += [TEXT] if any(isinstance(one, str) for one in part) else []
            kept.append(numbers)
    return kept or None, list(dict.fromkeys(wrong))


def _flattened(points: object) -> list[object] | None:
    """x, y, x, y, ... of a list of points [x, y] or {"x": x, "y": y}; None for anything else."""
    if not isinstance(points, list) or not points:
        return None
    if all(isinstance(point, list) and len(point) == 2 for point in points):
        pairs = points
    elif all(isinstance(point, dict) and {"x", "y"} <= point.keys() for point in points):
        pairs = [(point["x"], point["y"]) for point in points]
    else:
        return None
    flat = list(chain.from_iterable(pairs))
    return None if any(isinstance(one, (list, dict)) for one in flat) else flat


def _check_masks(
    outlines: list[Outline],
    masks: dict[int, Rle],
    sizes: np.ndarray,
    ids: Sequence[Id],
    warnings: Warnings,
) -> None:
    """Add the run lengths `masks`, by position of their annotation, to `outlines` if they can be decoded."""
    wrong: list[Id] = []
    empty: list[Id] = []
    readable = readable_rles(list(masks.values()), sizes[list(masks)].reshape(-1, 2))
    for place, rle in zip(masks, readable, strict=True):
        if rle is None:
            wrong.append(ids[place])
        elif rle["counts"]:
            outlines[place] = rle
        else:
            empty.append(ids[place])
    kind, action = FAULTS[NO_PIXELS]
    warnings.add("RLE that is damaged, or not of the size of the image", action, wrong, kind="bad-mask")
    warnings.add(NO_PIXELS, action, empty, kind=kind)


def _in_pixels(outlines: list[Outline], sizes: np.ndarray, ids: Sequence[Id], warnings: Warnings) -> list[Outline]:
    """The outlines, scaled to pixels where all polygons of the file are written as fractions of the image."""
    polygons = [(place, one) for place, one in enumerate(outlines) if isinstance(one, list)]
    if any(not 0 <= number <= 1 for _, one in polygons[:1] for part in one for number in part):
        return outlines  # most files: the first polygon shows it
    flat = [np.asarray(part, dtype=np.float64) for _, one in polygons for part in one]
    if not flat or not fractions(np.concatenate(flat)):  # one of them may have only 0 and 1: it covers its image
        return outlines
    for place, one in polygons:
        height, width = sizes[place].tolist()
        outlines[place] = [[v * (height if i % 2 else width) for i, v in enumerate(part)] for part in one]
    warnings.add(
        "a polygon in fractions of the image",
        "multiplied by its width and height",
        [ids[place] for place, _ in polygons],
        kind="relative-coordinates",
    )
    return outlines


def fractions(values: np.ndarray) -> bool:
    """Whether all of `values` lie in 0..1 and some are not integers, so that they are not pixels."""
    return bool((values >= 0).all() and (values <= 1).all() and (values % 1 > 0).any())


def outline_boxes(outlines: Sequence[Outline]) -> np.ndarray:
    """The boxes (A, 4) float64 x, y, width, height around outlines; NaN without an outline."""
    boxes = np.full((len(outlines), 4), np.nan)
    points = array("d")
    starts: list[int] = []
    owners: list[int] = []
    for place, outline in enumerate(outlines):
        if isinstance(outline, list):
            for part in outline:
                starts.append(len(points) // 2)
                owners.append(place)
                points.fromlist(part)
    if starts:
        xy = np.frombuffer(points, dtype=np.float64).reshape(-1, 2)
        low, high = np.minimum.reduceat(xy, starts), np.maximum.reduceat(xy, starts)  # (P, 2)
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        low, high = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
        boxes[np.asarray(owners)[first]] = np.concatenate([low, high - low], axis=1)
    places, masks = _masks(outlines)
    boxes[places] = rle_boxes(masks)
    return boxes


def outline_areas(outlines: Sequence[Outline]) -> np.ndarray:
    """Areas (A,) float64 of outlines in pixels; NaN without an outline."""
    polygons = (sum(map(polygon_area, one)) if isinstance(one, list) else math.nan for one in outlines)
    areas = np.fromiter(polygons, dtype=np.float64, count=len(outlines))
    places, masks = _masks(outlines)
    areas[places] = rle_areas(masks)
    return areas


def _masks(outlines: Sequence[Outline]) -> tuple[np.ndarray, list[Rle]]:
    """The outlines that are run lengths, and their places (R,) int64: measured at once, they take half the time."""
    places = [place for place, one in enumerate(outlines) if isinstance(one, dict)]
    return np.array(places, dtype=np.int64), [one for one in outlines if isinstance(one, dict)]


def polygon_area(part: Sequence[float]) -> float:
    """Area of one polygon [x, y, x, y, ...] in pixels (shoelace formula, like COCO's own areas)."""
    x, y = np.asarray(part, dtype=np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def clip_polygons(parts: Polygons, size: tuple[int, int]) -> Polygons:
    """The parts [x, y, x, y, ...] of an outline, clipped to an image of `size` (height, width).

    Parts without area inside the image are left out (Sutherland and Hodgman, 1974).
    """
    height, width = size
    kept: Polygons = []
    for part in parts:
        clipped = part
        for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, width, -1), (1, height, -1)):
            clipped = _clip_at_line(clipped, axis, float(limit), sign)
        if clipped == part or (len(clipped) >= MIN_NUMBERS and polygon_area(clipped) > 0):
            kept.append(clipped)
    return kept


def _clip_at_line(part: Sequence[float], axis: int, limit: float, sign: int) -> list[float]:
    """The part of a polygon where sign * (coordinate - limit) >= 0."""
    points = [part[place : place + 2] for place in range(0, len(part), 2)]
    kept: list[float] = []
    for before, point in zip([*points[-1:], *points[:-1]], points, strict=True):
        first, second = sign * (before[axis] - limit), sign * (point[axis] - limit)
        if (first >= 0) != (second >= 0):
            across = before[1 - axis] + first / (first - second) * (point[1 - axis] - before[1 - axis])
            kept += [limit, across] if axis == 0 else [across, limit]
        if second >= 0:
            kept += point
    return kept
