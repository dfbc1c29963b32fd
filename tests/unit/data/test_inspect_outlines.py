"""Geometry of outlines, against slow loops and pycocotools."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rcnn.data import open_dataset
from rcnn.data.checks.tables import Annotation
from rcnn.data.crossings import crossing_polygons
from rcnn.data.inspect.outlines import outline_measures
from rcnn.data.segmentations import pack_outlines
from tests.tiny_data import write_tiny_coco

Point = tuple[float, float]


def with_polygons(polygons: list[list[float]]) -> list[Annotation]:
    entry: Annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0,
        "segmentation": polygons,
    }  # fmt: skip
    return [entry]


def slow_crosses(polygon: list[float]) -> bool:
    """Whether two edges cross: both ends of each lie on different sides of the other."""
    points: list[Point] = list(zip(polygon[::2], polygon[1::2], strict=True))
    edges = [(points[i], points[(i + 1) % len(points)]) for i in range(len(points))]

    def side(a: Point, b: Point, c: Point) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0 for a, b in edges for c, d in edges
    )


def test_crossings_are_those_of_a_slow_loop() -> None:
    generator = np.random.default_rng(0)
    polygons: list[list[float]] = []
    for number in range(300):
        count = int(generator.integers(3, 12))
        if number % 3:  # a star around a centre does not cross itself unless two of its points change places
            turns = np.sort(generator.uniform(0, math.tau, count))
            radii = generator.uniform(5, 20, count)
            points = np.stack([30 + radii * np.cos(turns), 30 + radii * np.sin(turns)], axis=1)
            if number % 3 == 2:
                first = int(generator.integers(0, count - 1))
                points[[first, first + 1]] = points[[first + 1, first]]
        else:
            points = generator.integers(0, 9, (count, 2)).astype(float)  # touches and repeated points
        polygons.append(points.reshape(-1).tolist())
    found = crossing_polygons(pack_outlines(with_polygons(polygons)))
    expected = [slow_crosses(polygon) for polygon in polygons]
    assert found.tolist() == expected
    assert 50 < sum(expected) < 250


def test_a_closed_square_and_a_polygon_of_many_points() -> None:
    square = [0.0, 0, 9, 0, 9, 9, 0, 9, 0, 0]
    turns = np.linspace(0, math.tau, 3000, endpoint=False)
    circle = np.stack([100 * np.cos(turns), 100 * np.sin(turns)], axis=1)
    turns += 1e-4  # without a point where the curve crosses itself
    eight = np.stack([100 * np.cos(turns), 50 * np.sin(2 * turns)], axis=1)
    polygons = [square, circle.reshape(-1).tolist(), eight.reshape(-1).tolist()]
    assert crossing_polygons(pack_outlines(with_polygons(polygons))).tolist() == [False, False, True]


def test_a_point_on_another_edge_is_no_crossing_whatever_the_rounding() -> None:
    fractions = np.array([260.74, 281.51, 263.68, 283.47, 267.61, 280.53, 262.21, 282.49, 250, 290]) / 381
    written = [260.74, 281.51, 263.68, 283.47, 267.61, 280.53, 262.21, 282.49, 250, 290]  # 262.21, 282.49 on edge 1
    found = crossing_polygons(pack_outlines(with_polygons([written, (fractions * 381).tolist()])))
    assert found.tolist() == [False, False]


def test_nothing_crosses_in_nothing() -> None:
    assert crossing_polygons(pack_outlines([])).tolist() == []


def test_areas_and_boxes_are_those_of_pycocotools(tmp_path: Path) -> None:
    dataset = open_dataset(write_tiny_coco(tmp_path, {"train": 6}), "train")
    areas, boxes = outline_measures(dataset)
    place = 0
    for record in dataset:
        for outline in record.segmentations:
            assert isinstance(outline, tuple)
            polygons = [part.tolist() for part in outline]
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, record.height, record.width))
            x, y, width, height = coco_mask.toBbox(rle).tolist()
            assert areas[place] == pytest.approx(float(coco_mask.area(rle)), rel=0.06)  # pixels against geometry
            assert boxes[place].tolist() == pytest.approx([x, y, x + width, y + height], abs=1.01)
            place += 1
    assert place == len(areas) > 8
