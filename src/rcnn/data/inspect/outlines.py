"""Checks of outlines that are not done when a data set is opened, for all objects at once.

Letters: A objects, P polygons (parts of objects), V points of each polygon, Q points of all polygons.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rcnn.data.checks.boxes import AGREES, CONTRADICTS, box_agreement
from rcnn.data.messages import Warnings
from rcnn.data.records import Dataset
from rcnn.data.segmentations import Outlines
from rcnn.ops.coco_backend import rle_areas, rle_boxes

MIN_AREA = 4.0  # pixels of an outline; smaller ones vanish in the network's input
MIN_DIFFERENCE = 2.0  # pixels between a side of a box and of its outline
AREA_TOLERANCE = (
    0.1  # tolerated part of an outline's area, plus half its perimeter: pixel counts and polygon areas differ
)
_ROUNDING = 1e-9  # pixels squared: twice the area of a triangle that counts as flat
_COMPARED = 1 << 16  # pairs of edges compared at a time: they stay in the cache
Bools = npt.NDArray[np.bool_]


def check_outlines(dataset: Dataset, warnings: Warnings) -> None:
    """Warn about outlines that cross themselves, are tiny, or differ from their boxes or areas, except crowds."""
    objects, outlines = dataset.objects, dataset.objects.outlines
    own = outlines.given & ~objects.ignored
    areas, boxes = outline_measures(dataset)
    crossing = np.zeros(len(own), dtype=bool)
    crossing[part_owners(outlines)[crossing_polygons(outlines)]] = True
    differs = np.abs(boxes - objects.boxes).max(axis=1, initial=0) >= MIN_DIFFERENCE
    iou = box_agreement(_with_sizes(objects.boxes.astype(np.float64)), _with_sizes(boxes))
    around = _with_sizes(boxes)[:, 2:].sum(axis=1)  # half the perimeter
    apart = np.abs(objects.areas - areas) > AREA_TOLERANCE * areas + around
    warnings.add(
        "a polygon that crosses itself",
        "used as it is; the mask may have holes",
        objects.ids[own & crossing].tolist(),
        kind="self-crossing-outline",
    )
    warnings.add(
        f"an outline of fewer than {MIN_AREA:g} pixels",
        "used as it is; its mask may be empty",
        objects.ids[own & ~crossing & (areas < MIN_AREA)].tolist(),
        kind="tiny-outline",
    )
    warnings.add(
        f"a box that differs a little from its outline (IoU of {CONTRADICTS} to {AGREES})",
        "used as it is written",
        objects.ids[own & differs & (iou >= CONTRADICTS) & (iou < AGREES)].tolist(),
        kind="box-differs",
    )
    warnings.add(
        "an area that differs from that of its outline, e.g. width x height of the box",
        "used as written: COCO's metrics sort objects into small, medium and large by it. Without the field, it is "
        "computed from the outline",
        objects.ids[own & ~crossing & (areas >= MIN_AREA) & apart].tolist(),
        kind="area-differs",
    )


def outline_measures(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Areas (A,) in pixels, and boxes (A, 4) xyxy clipped to the images, of the outlines of all objects.

    Without an outline: area 0 and the box of the object. Areas of polygons are the sum over the parts, by the shoelace
    formula.
    """
    objects, outlines = dataset.objects, dataset.objects.outlines
    count = len(objects.boxes)
    areas, boxes = np.zeros(count), objects.boxes.astype(np.float64)
    starts, ends = outlines.point_starts[:-1] // 2, outlines.point_starts[1:] // 2  # (P,)
    if len(starts):
        points = outlines.points.reshape(-1, 2)
        owners = part_owners(outlines)
        areas = np.bincount(owners, _polygon_areas(points, starts, ends), minlength=count)
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)  # (P, 2)
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        around = np.concatenate([np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)], axis=1)
        boxes[owners[first]] = around
    image = objects.image_index
    sizes = dataset.sizes[image]  # (A, 2)
    places = np.flatnonzero(np.diff(outlines.rle_starts))
    if len(places):
        found = [
            outlines.segmentation(i, (h, w)) for i, (h, w) in zip(places.tolist(), sizes[places].tolist(), strict=True)
        ]
        masks = [one for one in found if isinstance(one, dict)]
        around = rle_boxes(masks)
        areas[places] = rle_areas(masks)
        boxes[places] = np.concatenate([around[:, :2], around[:, :2] + around[:, 2:]], axis=1)
    return areas, boxes.clip(0, np.tile(sizes[:, ::-1], 2))


def part_owners(outlines: Outlines) -> np.ndarray:
    """The index (P,) int64 of the object of each polygon."""
    return np.repeat(np.arange(len(outlines.part_starts) - 1), np.diff(outlines.part_starts))


def crossing_polygons(outlines: Outlines) -> Bools:
    """Which polygons (P,) have two edges that cross; edges that only touch do not count."""
    starts, ends = outlines.point_starts[:-1] // 2, outlines.point_starts[1:] // 2  # (P,)
    points, counts = outlines.points.reshape(-1, 2), ends - starts
    found = np.zeros(len(starts), dtype=bool)
    lengths = _padded_lengths(counts)
    for length in np.unique(lengths[counts > 3]).tolist():
        places = np.flatnonzero((lengths == length) & (counts > 3))
        step = max(1, _COMPARED // length)
        for first in range(0, len(places), step):
            chunk = places[first : first + step]
            # shorter polygons repeat their last point: edges of no length cross nothing
            own = np.minimum(np.arange(length), counts[chunk, None] - 1)
            found[chunk[_crossing(points[starts[chunk, None] + own])]] = True
    return found


def _padded_lengths(counts: np.ndarray) -> np.ndarray:
    """Numbers of points, rounded up so that polygons of similar length are compared together."""
    multiple = np.where(counts <= 64, 8, 2 ** np.ceil(np.log2(np.maximum(counts, 1)) - 2).astype(np.int64))
    return -(-counts // multiple) * multiple


def _crossing(corners: np.ndarray) -> np.ndarray:
    """Indices of the polygons in `corners` (P, V, 2) that have crossing edges."""
    count = corners.shape[1]
    after = np.roll(corners, -1, axis=1)
    low, high = np.minimum(corners, after), np.maximum(corners, after)
    # twice in a row, so that the edges from any edge on are one slice
    left, top, right, bottom = (
        np.tile(side, (1, 2)) for side in (low[..., 0], low[..., 1], high[..., 0], high[..., 1])
    )
    found = [np.zeros(0, dtype=np.int64)]
    for step in range(2, count // 2 + 1):  # every edge with the one `step` edges later
        one, other = slice(0, count), slice(step, step + count)
        meet = left[:, one] <= right[:, other]  # edges with overlapping boxes
        meet &= left[:, other] <= right[:, one]
        meet &= top[:, one] <= bottom[:, other]
        meet &= top[:, other] <= bottom[:, one]
        polygon, i = np.nonzero(meet)
        if len(polygon):
            j = (i + step) % count
            a, b, c, d = corners[polygon, i], after[polygon, i], corners[polygon, j], after[polygon, j]
            crosses = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
            found.append(polygon[crosses])
    return np.unique(np.concatenate(found))


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """On which side of the line from `a` to `b` a point `c` is (all (N, 2)): -1, 0 on the line, 1."""
    side = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return np.where(np.abs(side) > _ROUNDING, np.sign(side), 0)


def _polygon_areas(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Areas (P,) of the polygons at `starts` to `ends` of `points` (Q, 2)."""
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    local = points - np.repeat(points[starts], ends - starts, axis=0)  # precise even far from the origin
    x, y = local.T
    return np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2


def _with_sizes(boxes: np.ndarray) -> np.ndarray:
    """xyxy -> x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
