"""Position-sensitive average pooling (Dai et al. 2016, equation 1; Li et al. 2017), as an op, `rcnn::ps_roi_pool`.

A region is divided into groups, each with maps of its own, and a group into cells, which are averaged:

| here | Dai et al. (R-FCN) | Li et al. (FCIS) | per region | what it is |
|---|---|---|---|---|
| group | bin | cell | k x k (FCIS: 7 x 7) | a part of an object, e.g. its top left |
| cell | bin, because s = k | pixel of the RoI | s x s (FCIS: 21 x 21) | a value of the pooled map, as in other heads |
| point | pixel | pixel | | a value of a map |

There is one map per class and group: the cells of group (i, j) are read only from map (i, j). s is a multiple of k, so
a group has (s / k) x (s / k) cells. A cell is the mean of the points that it covers. The authors' operator (MXNet's
PSROIPooling) calls k `group_size` and s `pooled_size`.

Letters: B images, R regions, C channels of the result, k groups per side, s cells per side, N cells of all regions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from rcnn.ops import kernels
from rcnn.ops.opaque import opaque_op
from rcnn.ops.precision import at_least_float32

VALUES_AT_A_TIME = 2**17  # of cells and channels: small enough for the cache
SMALLEST = 0.1  # minimum side of a region, in map cells


@opaque_op
def ps_roi_pool(
    maps: Tensor,
    boxes: Tensor,
    valid: Tensor,
    scale: float,
    groups: int,
    size: int,
    rounded: bool,
) -> Tensor:
    """The cells of each region: each is the mean of the points it covers in the map of its group.

    A cell extends from the floor of its start to the ceiling of its end, clipped to the map; empty cells are 0. Sums
    come from a summed-area table in float64, so a cell of any size reads four values.

    Args:
        maps: (B, C * k * k, H, W) float; channel (c * k + i) * k + j is that of class c and group row i, column j.
        boxes: (B, R, 4) float xyxy pixels of the network input; they may extend beyond it.
        valid: (B, R) bool; invalid regions give zeros and no gradient.
        scale: map cells per pixel, 1 / stride.
        groups: k.
        size: s, a multiple of k.
        rounded: borders are rounded to whole pixels first, halves away from zero (msracver/FCIS, chainer-fcis).

    Returns:
        (B, R, C, size, size) in the maps' dtype. The gradient flows to the maps, not to the boxes.
    """
    batch, regions = valid.shape
    channels, height, width = maps.shape[1] // groups**2, *maps.shape[2:]
    if kernels.usable(maps):
        from rcnn.ops.kernels import ps_roi as kernel

        return kernel.ps_roi_pool(maps, *_cells(boxes, valid, scale, size, rounded, height, width), groups)
    many = max(64, VALUES_AT_A_TIME // max(1, channels))
    pooled = maps.new_empty((batch, regions * size * size, channels))  # channels innermost, as the table is read
    for image in range(batch):
        table = _table(maps[image], groups)
        corners, inverse_area = _corners(boxes[image], valid[image], scale, groups, size, rounded, height, width)
        for start in range(0, len(inverse_area), many):
            cells = slice(start, start + many)
            top_left, top_right, bottom_left, bottom_right = (table[index[cells]] for index in corners)  # (n, C) each
            sums = bottom_right - top_right - bottom_left + top_left  # of the points in each cell
            pooled[image, cells] = (sums * inverse_area[cells, None]).to(maps.dtype)
    return pooled.view(batch, regions, size, size, channels).permute(0, 1, 4, 2, 3)


@opaque_op
def ps_roi_pool_backward(
    gradient: Tensor,
    boxes: Tensor,
    valid: Tensor,
    height: int,
    width: int,
    scale: float,
    groups: int,
    rounded: bool,
) -> Tensor:
    """Gradient of the maps (B, C * k * k, H, W) from that of the pooled regions (B, R, C, s, s); see `ps_roi_pool`."""
    batch, regions, channels, size, _ = gradient.shape
    if kernels.usable(gradient) and not torch.are_deterministic_algorithms_enabled():  # its sums are atomic
        from rcnn.ops.kernels import ps_roi as kernel

        spread = at_least_float32(gradient).new_zeros((batch, channels * groups**2, height, width))
        cells = _cells(boxes, valid, scale, size, rounded, height, width)
        kernel.ps_roi_pool_backward(gradient, spread, *cells, groups)
        return spread.to(gradient.dtype)
    many = max(64, VALUES_AT_A_TIME // max(1, channels))
    flat = gradient.permute(0, 1, 3, 4, 2).reshape(batch, regions * size * size, channels)
    maps = gradient.new_empty((batch, channels * groups**2, height, width))
    for image in range(batch):
        table = gradient.new_zeros((groups**2 * (height + 1) * (width + 1), channels), dtype=torch.float64)
        corners, inverse_area = _corners(boxes[image], valid[image], scale, groups, size, rounded, height, width)
        for start in range(0, len(inverse_area), many):
            cells = slice(start, start + many)
            part = flat[image, cells].double() * inverse_area[cells, None]
            for index, sign in zip(corners, (1, -1, -1, 1), strict=True):  # top left, top right, bottom left and right
                table.index_add_(0, index[cells], part, alpha=sign)
        # An entry of the table sums all points above and left of it, so the gradient of a point is the sum of those of
        # the entries below and right of it: a cumulative sum that starts at the bottom right.
        sums = table.view(groups**2, height + 1, width + 1, channels)[:, 1:, 1:]
        sums = sums.flip(1, 2).cumsum_(1).cumsum_(2).flip(1, 2)
        maps[image] = sums.permute(3, 0, 1, 2).reshape(-1, height, width).to(gradient.dtype)
    return maps


def _table(maps: Tensor, groups: int) -> Tensor:
    """A summed-area table (k * k * (H + 1) * (W + 1), C) float64 for each group.

    T[y, x] is the sum of the map's rows 0 to y - 1 in columns 0 to x - 1. The sum of rows top to bottom - 1 in columns
    left to right - 1 is then T[bottom, right] - T[top, right] - T[bottom, left] + T[top, left].
    """
    grouped = maps.unflatten(0, (-1, groups**2)).permute(1, 2, 3, 0)  # (k * k, H, W, C)
    number, height, width, channels = grouped.shape
    table = grouped.new_zeros((number, height + 1, width + 1, channels), dtype=torch.float64)
    table[:, 1:, 1:] = grouped
    return table.cumsum_(1).cumsum_(2).flatten(0, 2)


def _corners(
    boxes: Tensor,
    valid: Tensor,
    scale: float,
    groups: int,
    size: int,
    rounded: bool,
    height: int,
    width: int,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Rows of the table (R * s * s,) of each cell's four corners, and 1 / area (0 for empty cells), float64.

    The corners are top left, top right, bottom left and bottom right.
    """
    top, bottom = _cell_limits(boxes[:, 1], boxes[:, 3], scale, size, rounded, height)  # (R, s) each
    left, right = _cell_limits(boxes[:, 0], boxes[:, 2], scale, size, rounded, width)
    group = torch.arange(size, device=boxes.device) * groups // size  # (s,)
    plane = (group[:, None] * groups + group) * (height + 1)  # (s, s)
    rows = [(plane + row[:, :, None]) * (width + 1) for row in (top, bottom)]  # (R, s, s) each
    area = ((bottom - top).clamp(min=0)[:, :, None] * (right - left).clamp(min=0)[:, None]).double()
    inverse_area = torch.where((area > 0) & valid[:, None, None], 1 / area.clamp(min=1), 0.0)
    indices = tuple((row + column[:, None]).flatten() for row in rows for column in (left, right))
    return (indices[0], indices[1], indices[2], indices[3]), inverse_area.flatten()


def _cells(
    boxes: Tensor, valid: Tensor, scale: float, size: int, rounded: bool, height: int, width: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """First point, and one past the last, (B, R, s) int64, of the cells' rows and columns; none for invalid regions."""
    x1, y1, x2, y2 = boxes.flatten(0, 1).unbind(-1)  # (B * R,) each
    top, bottom = (
        (ends * valid.flatten()[:, None]).unflatten(0, valid.shape)
        for ends in _cell_limits(y1, y2, scale, size, rounded, height)
    )
    left, right = (ends.unflatten(0, valid.shape) for ends in _cell_limits(x1, x2, scale, size, rounded, width))
    return (top, bottom), (left, right)


def _cell_limits(
    start: Tensor, end: Tensor, scale: float, size: int, rounded: bool, length: int
) -> tuple[Tensor, Tensor]:
    """First point, and one past the last, (R, s) int64 in [0, length], of each cell along one axis."""
    start, end = start.double(), end.double()
    if rounded:
        start, end = (torch.trunc(value + 0.5 * value.sign()) for value in (start, end))
        # whole pixels put cells exactly on map points, where one bit matters: the original kernels use float32
        start, end = start.float(), end.float()
    start, end = start * scale, end * scale
    step = (end - start).clamp(min=SMALLEST) / size  # (R,)
    cell = torch.arange(size, device=start.device, dtype=start.dtype)
    low = (cell * step[:, None]).add(start[:, None]).floor()
    high = ((cell + 1) * step[:, None]).add(start[:, None]).ceil()
    low, high = (value.nan_to_num(0).clamp(0, length).to(torch.int64) for value in (low, high))
    return low, high


@ps_roi_pool.register_fake
def _(maps: Tensor, boxes: Tensor, valid: Tensor, scale: float, groups: int, size: int, rounded: bool) -> Tensor:
    batch, regions = valid.shape
    return maps.new_empty((batch, regions, size, size, maps.shape[1] // groups**2)).permute(0, 1, 4, 2, 3)


@ps_roi_pool_backward.register_fake
def _(
    gradient: Tensor,
    boxes: Tensor,
    valid: Tensor,
    height: int,
    width: int,
    scale: float,
    groups: int,
    rounded: bool,
) -> Tensor:
    return gradient.new_empty((gradient.shape[0], gradient.shape[2] * groups**2, height, width))


class _Context(FunctionCtx):
    """What the backward pass needs of the forward pass."""

    saved_tensors: tuple[Tensor, Tensor]  # boxes, valid
    settings: tuple[int, int, float, int, bool]  # height and width of the map, scale, groups, rounded


def _remember(ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor, float, int, int, bool], output: Tensor) -> None:
    maps, boxes, valid, scale, groups, _, rounded = inputs
    ctx.save_for_backward(boxes, valid)
    ctx.settings = maps.shape[2], maps.shape[3], scale, groups, rounded


def _backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
    boxes, valid = ctx.saved_tensors
    maps = ps_roi_pool_backward(gradient, boxes, valid, *ctx.settings)
    return maps, None, None, None, None, None, None


ps_roi_pool.register_autograd(_backward, setup_context=_remember)
