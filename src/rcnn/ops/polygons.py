"""Ground-truth outlines to masks in the frames of regions, bit for bit equal to Detectron2 and pycocotools.

pycocotools (rleFrPoly) enlarges a polygon five times, walks along each edge pixel by pixel, and stores where the walk
passes from column 5c + 2 to column 5c + 3 of that finer grid: there, the edge crosses the centres of column c. Pixels
between a pair of crossings of a column are inside. Here the crossings are computed directly, for all regions at once.

Letters: B images, G ground-truth objects, E edges of one object, R regions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.opaque import opaque_op

FINE = 5  # pycocotools' enlargement
ELEMENTS_AT_A_TIME = 1_000_000  # of the largest array: tens of megabytes in all
SHORTEST_SIDE = 0.1  # of a box, pixels: Detectron2's smallest divisor


class _Outlines(NamedTuple):
    """The edges of T objects without padding; parts are numbered across all objects."""

    edges: Tensor  # (L, 5) float64, sorted by object
    edge_first: Tensor  # (T,) int64, the first edge of each object
    edge_count: Tensor  # (T,) int64
    part_first: Tensor  # (T,) int64, the first part of each object
    part_count: Tensor  # (T,) int64


@opaque_op
def rasterize_polygons(polygons: Tensor, matched: Tensor, boxes: Tensor, valid: Tensor, size: int) -> Tensor:
    """Ground-truth masks in the frames of regions, from outlines (Detectron2's rasterize_polygons_within_box).

    Args:
        polygons: (B, G, E, 5) edges x1, y1, x2, y2, part, in pixels. An object is the union of its parts, each filled
            even-odd; edges of one part are contiguous, in any order, and form closed outlines; padding has part -1.
        matched: (B, R) int64, index of the object matched to each region.
        boxes: (B, R, 4) float32 xyxy pixels.
        valid: (B, R) bool; invalid rows give zeros.
        size: side of the result, pixels.

    Returns:
        (B, R, size, size) float32 of 0 and 1. No gradient: targets are data.
    """
    if kernels.usable(polygons):
        from rcnn.ops.kernels import polygons as kernel

        return kernel.rasterize_polygons(polygons, matched, boxes, valid, size)
    masks = boxes.new_zeros((*valid.shape, size, size), dtype=torch.float32)
    image, row = valid.nonzero(as_tuple=True)  # (V,) each, of the valid regions
    if len(image) == 0 or size == 0:
        return masks
    object_index = image * polygons.shape[1] + matched[image, row]  # (V,) into B * G
    used, object_index = torch.unique(object_index, return_inverse=True)  # (T,), and (V,) into T
    outlines = _without_padding(polygons.flatten(0, 1)[used])
    elements = (outlines.edge_count + outlines.part_count * size)[object_index] * size  # (V,), of the largest array
    chunk_number = elements.cumsum(0) // ELEMENTS_AT_A_TIME
    lengths: list[int] = torch.unique_consecutive(chunk_number, return_counts=True)[1].tolist()
    chunks = zip(object_index.split(lengths), boxes[image, row].split(lengths), strict=True)
    masks[image, row] = torch.cat([_rasterize(outlines, *chunk, size) for chunk in chunks]).float()
    return masks


@rasterize_polygons.register_fake
def _(polygons: Tensor, matched: Tensor, boxes: Tensor, valid: Tensor, size: int) -> Tensor:
    return boxes.new_empty((*valid.shape, size, size), dtype=torch.float32)


def _without_padding(polygons: Tensor) -> _Outlines:
    """The outlines of objects (T, E, 5)."""
    real = polygons[..., 4] >= 0  # (T, E)
    object_index = real.nonzero()[:, 0]  # (L,)
    edges = polygons[real].double()  # (L, 5)
    edge_count = real.sum(1)
    begins_part = torch.ones_like(object_index, dtype=torch.bool)
    begins_part[1:] = (object_index.diff() != 0) | (edges[:, 4].diff() != 0)
    part_count = torch.bincount(object_index[begins_part], minlength=len(polygons))
    edges[:, 4] = (begins_part.cumsum(0) - 1).double()
    return _Outlines(edges, _starts(edge_count), edge_count, _starts(part_count), part_count)


def _rasterize(outlines: _Outlines, object_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Masks (N, size, size) bool of the objects with `object_index` (N,), each in the frame of its box (N, 4).

    Each part of each object is filled on a canvas of its own; the mask is the union of the canvases.
    """
    part_count = outlines.part_count[object_index]  # (N,)
    region, edge = _concatenated_ranges(outlines.edge_first[object_index], outlines.edge_count[object_index])  # (M,)
    part_in_object = outlines.edges[edge, 4].long() - outlines.part_first[object_index][region]
    canvas = _starts(part_count)[region] + part_in_object  # (M,)
    canvas_region = torch.repeat_interleave(part_count)
    x1, y1, x2, y2 = _to_fine_grid(outlines.edges[edge, :4], boxes[region], size)
    canvases = _fill(x1, y1, x2, y2, canvas, len(canvas_region), size)
    return canvases.new_zeros((len(boxes), size, size)).index_add_(0, canvas_region, canvases) > 0


def _starts(count: Tensor) -> Tensor:
    """The first number of each of N ranges of `count` (N,) numbers that follow each other from 0 on."""
    return count.cumsum(0) - count


def _concatenated_ranges(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """N ranges first, first + 1, ... of `count` (N,) numbers, concatenated: the range and the number, (M,) each."""
    index = torch.repeat_interleave(count)
    return index, torch.arange(len(index), device=index.device) - _starts(count)[index] + first[index]


def _to_fine_grid(edges: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x1, y1, x2, y2 (M,) int64 on the fine grid of its box, from `edges` (M, 4) float64 and `boxes` (M, 4)."""
    boxes = boxes.float()
    side = boxes[:, 2:] - boxes[:, :2]  # in float32, like the ratio, as NumPy computes it in Detectron2
    # `size / side` would compute size times the reciprocal, which rounds differently; the guard is float64 in NumPy.
    ratio = torch.full_like(side, size).div(side).double().where(side >= SHORTEST_SIDE, size / SHORTEST_SIDE)  # (M, 2)
    points = (edges.unflatten(1, (2, 2)) - boxes[:, None, :2].double()) * ratio[:, None]  # (M, 2, 2)
    fine = (FINE * points + 0.5).long()  # towards zero, as in C
    return fine[:, 0, 0], fine[:, 0, 1], fine[:, 1, 0], fine[:, 1, 1]


def _fill(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, canvas: Tensor, count: int, size: int) -> Tensor:
    """Canvases (count, size, size) int32 of 0 and 1: the filled closed outlines.

    `canvas` (M,) is the canvas of each edge; x1, y1, x2, y2 (M,) are its ends on the fine grid.
    """
    low, high = torch.minimum(x1, x2), torch.maximum(x1, x2)
    # Columns c with low <= 5c + 2 and 5c + 3 <= high.
    first = torch.div(low - 2 + FINE - 1, FINE, rounding_mode="floor").clamp(min=0)
    last = torch.div(high - 3, FINE, rounding_mode="floor").clamp(max=size - 1)
    edge, column = _concatenated_ranges(first, (last - first + 1).clamp(min=0))
    y = _crossing_height(x1[edge], y1[edge], x2[edge], y2[edge], FINE * column + 2)
    y = (y.double() + 0.5) / FINE - 0.5
    row = y.clamp(0, size).ceil().long()  # the first row with its centre below the crossing; `size`: none
    cell = (canvas[edge] * (size + 1) + row) * size + column
    crossings = torch.bincount(cell, minlength=count * (size + 1) * size).view(count, size + 1, size)
    return crossings[:, :size].cumsum(1, dtype=torch.int32) & 1


def _crossing_height(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, column: Tensor) -> Tensor:
    """The fine row (M,) at which the walk along an edge passes from `column` to the next one, the upper of the two.

    pycocotools walks along the longer axis in steps of 1, upwards, and rounds the other by C's rules.
    """
    width, height = (x2 - x1).abs(), (y2 - y1).abs()
    flat = width >= height
    flip = torch.where(flat, x1 > x2, y1 > y2)
    x, y = torch.where(flip, x2, x1), torch.where(flip, y2, y1)  # start of the walk
    slope = torch.where(flat, torch.where(flip, y1, y2) - y, torch.where(flip, x1, x2) - x).double()
    slope = slope / torch.where(flat, width, height).double()

    # Along x: both columns are steps of the walk.
    before = (column - x).double()
    first, second = ((y.double() + slope * step + 0.5).long() for step in (before, before + 1))
    along_x = torch.minimum(first, second)

    # Along y: the last step before the rounded x reaches the other side. Division finds it to within one step.
    rising = slope > 0
    steep = torch.where(flat, 1.0, slope)  # 1 where unused: no division by a slope of 0
    step = ((column - x).double() + 0.5) / steep
    step = step.floor() - 1
    for _ in range(2):
        reached = (x.double() + slope * (step + 1) + 0.5).long()
        step = step + torch.where(torch.where(rising, reached <= column, reached > column), 1.0, 0.0)
    return torch.where(flat, along_x, y + step.long())
