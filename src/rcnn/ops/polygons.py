"""Ground-truth outlines to masks in the frames of regions, bit for bit equal to Detectron2 and pycocotools.

pycocotools (rleFrPoly) enlarges a polygon five times, walks along each edge pixel by pixel, and stores where the walk
passes from column 5c + 2 to column 5c + 3 of that finer grid: there, the edge crosses the centres of column c. Pixels
between a pair of crossings of a column are inside. Here the crossings are computed directly, for all regions at once.

Letters: B images, G ground-truth objects, E edges of one object with padding, R regions; V valid regions, T objects
that they are matched to, L edges of these; of some regions at a time: N regions, M edges, P parts, C crossings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.opaque import opaque_op

FINE_PER_PIXEL = 5  # cells of pycocotools' finer grid in a pixel, along each axis
ELEMENTS_AT_A_TIME = 1_000_000  # of crossings and canvases: tens of megabytes in all
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
    # memory of each region: at most `size` crossings per edge, and a canvas per part
    elements = (outlines.edge_count + outlines.part_count * size)[object_index] * size  # (V,)
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
    is_edge = polygons[..., 4] >= 0  # (T, E)
    object_index = is_edge.nonzero()[:, 0]  # (L,)
    edges = polygons[is_edge].double()  # (L, 5)
    edge_count = is_edge.sum(1)  # (T,)
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
    canvas = _starts(part_count)[region] + part_in_object  # (M,) into P
    canvas_region = torch.repeat_interleave(part_count)  # (P,) into N
    x1, y1, x2, y2 = _to_fine_grid(outlines.edges[edge, :4], boxes[region], size)
    canvases = _fill(x1, y1, x2, y2, canvas, len(canvas_region), size)  # (P, size, size)
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
    fine = (FINE_PER_PIXEL * points + 0.5).long()  # towards zero, as in C
    return fine[:, 0, 0], fine[:, 0, 1], fine[:, 1, 0], fine[:, 1, 1]


def _fill(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, canvas: Tensor, count: int, size: int) -> Tensor:
    """Canvases (count, size, size) int32 of 0 and 1: the closed outlines, filled by the even-odd rule.

    `canvas` (M,) is the canvas of each edge; x1, y1, x2, y2 (M,) are its ends on the fine grid.
    """
    # An edge crosses the columns c with left <= 5c + 2 and 5c + 3 <= right.
    left, right = torch.minimum(x1, x2), torch.maximum(x1, x2)
    first = torch.div(left - 2 + FINE_PER_PIXEL - 1, FINE_PER_PIXEL, rounding_mode="floor").clamp(min=0)  # rounded up
    last = torch.div(right - 3, FINE_PER_PIXEL, rounding_mode="floor").clamp(max=size - 1)
    edge, column = _concatenated_ranges(first, (last - first + 1).clamp(min=0))  # (C,) each
    fine_row = _crossing_row(x1[edge], y1[edge], x2[edge], y2[edge], FINE_PER_PIXEL * column + 2)
    y = (fine_row.double() + 0.5) / FINE_PER_PIXEL - 0.5  # in rows of the canvas
    row = y.clamp(0, size).ceil().long()  # the first row with its centre below the crossing; `size`: none
    cell = (canvas[edge] * (size + 1) + row) * size + column
    crossings = torch.bincount(cell, minlength=count * (size + 1) * size).view(count, size + 1, size)
    return crossings[:, :size].cumsum(1, dtype=torch.int32) & 1  # inside: an odd number of crossings above


def _crossing_row(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, column: Tensor) -> Tensor:
    """The fine row (C,) at which the walk along an edge passes from fine `column` to the next one: the upper of two.

    pycocotools walks along the longer axis in steps of 1, upwards, and rounds the other coordinate by C's rules.
    """
    width, height = (x2 - x1).abs(), (y2 - y1).abs()
    along_x = width >= height
    swapped = torch.where(along_x, x1 > x2, y1 > y2)
    x, x_end = torch.where(swapped, x2, x1), torch.where(swapped, x1, x2)
    y, y_end = torch.where(swapped, y2, y1), torch.where(swapped, y1, y2)
    slope = torch.where(along_x, y_end - y, x_end - x).double() / torch.where(along_x, width, height).double()
    slope_along_y = torch.where(along_x, 1.0, slope)  # 1 where unused: no division by a slope of 0
    return torch.where(along_x, _row_along_x(x, y, slope, column), _row_along_y(x, y, slope_along_y, column))


def _row_along_x(x: Tensor, y: Tensor, slope: Tensor, column: Tensor) -> Tensor:
    """`_crossing_row` of walks along x from (x, y): both columns are steps of the walk."""
    steps = (column - x).double()
    row, next_row = ((y.double() + slope * step + 0.5).long() for step in (steps, steps + 1))
    return torch.minimum(row, next_row)


def _row_along_y(x: Tensor, y: Tensor, slope: Tensor, column: Tensor) -> Tensor:
    """`_crossing_row` of walks along y from (x, y): at the last step before the rounded x reaches the other column."""
    steps = (((column - x).double() + 0.5) / slope).floor() - 1  # division finds it to within one step
    for _ in range(2):
        next_x = (x.double() + slope * (steps + 1) + 0.5).long()
        has_not_passed = torch.where(slope > 0, next_x <= column, next_x > column)
        steps = steps + has_not_passed.double()
    return y + steps.long()
