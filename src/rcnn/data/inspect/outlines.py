"""Checks of outlines that are not done when a data set is opened, for all objects at once.

Letters: A objects, P polygons (parts of objects), V points of each polygon, Q points of all polygons.
"""

from __future__ import annotations

import numpy as np

from rcnn.data.checks.boxes import AGREES, CONTRADICTS, box_agreement
from rcnn.data.crossings import crossing_polygons
from rcnn.data.messages import Warnings
from rcnn.data.records import Dataset
from rcnn.data.segmentations import Outlines
from rcnn.ops.coco_backend import rle_areas, rle_boxes

MIN_AREA = 4.0  # pixels of an outline; smaller ones vanish in the network's input
MIN_DIFFERENCE = 2.0  # pixels between a side of a box and of its outline
AREA_TOLERANCE = (
    0.1  # tolerated part of an outline's area, plus half its perimeter: pixel counts and polygon areas differ
)


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
