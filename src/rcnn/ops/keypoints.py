"""Keypoints and their heat maps (He et al. 2017, section 5): targets as cells of a map, and decoding of maps.

Letters: B images, R regions, D detections, J keypoints, m the side of a map, M maps, K cells, S pixels of a box's side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.opaque import opaque_op

CUBIC = -0.75  # the bicubic kernel's parameter (Keys 1981, with PyTorch's value)
OVERSHOOT = -CUBIC / 4  # the sum of its two outer weights is at least -OVERSHOOT, reached half way between two samples
REGIONS_AT_A_TIME = 8  # regions of similar size decoded together on the CPU: their maps fit into the cache
REGIONS_ELSEWHERE = 256  # the same on an accelerator
VALUES_AT_A_TIME = 2**21  # interpolated values in memory together
SLACK = 1e-5  # tolerance of a bound for rounding, relative to the largest magnitude in a map


def keypoint_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Targets of ground-truth keypoints: cell (B, R, J) int64 of the size * size cells of each region, and `valid`.

    Detectron2's rule: a keypoint (x, y, visibility) of `keypoints` (B, R, J, 3) belongs to the cell that contains it;
    on the right or bottom border of its box (B, R, 4), xyxy pixels, it belongs to the last cell. Keypoints without
    annotation (visibility 0) or outside the box are not valid, and have cell 0.
    """
    corner, side = boxes[:, :, None, :2], (boxes[..., 2:] - boxes[..., :2])[:, :, None]  # (B, R, 1, 2)
    points = keypoints[..., :2]
    cell = ((points - corner) * (size / torch.where(side > 0, side, 1.0))).floor()  # (B, R, J, 2)
    cell = torch.where(points == boxes[:, :, None, 2:], size - 1, cell)
    annotated = ((cell >= 0) & (cell < size)).all(-1) & (keypoints[..., 2] > 0) & (side > 0).all(-1)
    cell = torch.where(annotated[..., None], cell, 0).to(torch.int64)
    return cell[..., 1] * size + cell[..., 0], annotated


@opaque_op
def decode_keypoints(maps: Tensor, boxes: Tensor) -> Tensor:
    """The maximum of each heat map, resized bicubically to its box (Detectron2's heatmaps_to_keypoints).

    Args:
        maps: (B, D, J, m, m) floating point, logits in the frame of each box.
        boxes: (B, D, 4) float32 xyxy pixels. A side counts as at least 1 pixel; memory grows with the longest side.

    Returns:
        (B, D, J, 4) float32: x, y in pixels, the logit there, and its score: exp(logit) over the sum of exp(map), which
        can slightly exceed 1 because the interpolation overshoots. A map that is not finite gives score 0.

    Maps are not resized as a whole. A cell is the area between the inner samples of a 4 x 4 block; the samples give an
    upper bound of its interpolated values (`_upper_bounds`). The cells around the largest sample give a lower bound of
    the maximum. Only cells with an upper bound that reaches this lower bound are interpolated. Of equal maxima, the
    first in row-major order is returned.
    """
    if kernels.usable(maps):
        from rcnn.ops.kernels import keypoints as kernel

        return kernel.decode_keypoints(maps, boxes)
    batch, detections, joints = maps.shape[:3]
    flat, corners = maps.flatten(0, 1), boxes.flatten(0, 1).float()
    found = boxes.new_zeros((batch * detections, joints, 4), dtype=torch.float32)
    if found.numel() == 0:
        return found.view(batch, detections, joints, 4)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    chunk = REGIONS_AT_A_TIME if maps.device.type == "cpu" else REGIONS_ELSEWHERE
    for alike in area.argsort().split(chunk):
        found[alike] = _decode(flat[alike].float().contiguous(), corners[alike])
    return found.view(batch, detections, joints, 4)


@decode_keypoints.register_fake
def _(maps: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty((*maps.shape[:3], 4), dtype=torch.float32)


class _Axis(NamedTuple):
    """One axis of R boxes: the pixels in each cell of the map, and their weights of the four samples."""

    first: Tensor  # (R, m + 1) int64
    last: Tensor  # (R, m + 1) int64, one past
    weights: Tensor  # (R, S, 4)
    most: int  # pixels of a cell


def _axis(sides: Tensor, size: int) -> _Axis:
    """The axis of boxes with `sides` (R,) in whole pixels, over maps of `size` samples.

    Cell c lies between samples c - 1 and c, with the border's value beyond the border.
    """
    longest = int(sides.max())
    pixels = torch.arange(longest, device=sides.device)
    at = (pixels + 0.5) * (size / sides)[:, None] - 0.5  # (R, S) in samples; -0.5 to size - 0.5
    low = at.floor()
    cell = torch.where(pixels < sides[:, None], low.to(torch.int64) + 1, size + 1)
    cells = torch.arange(size + 1, device=sides.device).expand(len(sides), -1).contiguous()
    first = torch.searchsorted(cell, cells)
    last = torch.searchsorted(cell, cells, right=True)
    return _Axis(first, last, _cubic_weights(at - low), max(1, int((last - first).max())))


def _cubic_weights(share: Tensor) -> Tensor:
    """Weights (..., 4) of the samples at -1, 0, 1 and 2 for a point at `share` (...) in [0, 1]."""

    def inner(t: Tensor) -> Tensor:
        return ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1

    def outer(t: Tensor) -> Tensor:
        return ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC

    return torch.stack([outer(share + 1), inner(share), inner(1 - share), outer(2 - share)], -1)


def _decode(maps: Tensor, boxes: Tensor) -> Tensor:
    """Keypoints (R, J, 4) of maps (R, J, m, m) float32 in boxes (R, 4)."""
    regions, joints, size = maps.shape[:3]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)  # (R, 2) width, height
    whole = sides.ceil()
    x, y = _axis(whole[:, 0], size), _axis(whole[:, 1], size)
    region = torch.arange(regions, device=maps.device).repeat_interleave(joints)  # (M,)
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate").flatten(0, 1)  # (M, m + 4, m + 4)
    highest, at = maps.view(len(region), -1).max(1)
    reach = torch.maximum(highest.abs(), maps.view(len(region), -1).amin(1).abs())
    map_index = torch.arange(len(region), device=maps.device)
    # the four cells around the largest sample
    around = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], device=maps.device)
    seed_y, seed_x = ((torch.stack([at // size, at % size], 1)[:, None] + around).flatten(0, 1)).unbind(1)
    value, pixel_index = _best(padded, map_index.repeat_interleave(4), seed_y, seed_x, region, y, x)
    # the other cells that may have a larger value and contain pixels
    candidate, row, column = (_upper_bounds(padded) >= (value - SLACK * reach)[:, None, None]).nonzero().unbind(1)
    box = region[candidate]
    filled = (y.last > y.first)[box, row] & (x.last > x.first)[box, column]
    value, pixel_index = _best(padded, candidate[filled], row[filled], column[filled], region, y, x)
    # x runs fastest in `pixel_index`, over the longest side of the chunk
    longest = x.weights.shape[1]
    pixel = torch.stack([pixel_index % longest, pixel_index // longest], -1).view(regions, joints, 2)
    points = (pixel + 0.5) * (sides / whole)[:, None] + boxes[:, None, :2]
    value = value.view(regions, joints)
    score = (value - maps.flatten(2).logsumexp(2)).exp()
    score = torch.where(score.isfinite(), score, 0.0)
    return torch.cat([points, value[..., None], score[..., None]], -1)


def _upper_bounds(padded: Tensor) -> Tensor:
    """Upper bounds (M, m + 1, m + 1) of the values interpolated in each cell, for padded maps (M, m + 4, m + 4).

    Along one axis a value is a + n (a - b): a between the two inner samples, b between the two outer ones, and n from 0
    to OVERSHOOT. So it is at most the larger inner sample, plus OVERSHOOT times the excess over the smaller outer
    one. The same holds along the other axis for the values of the rows, between their bounds.
    """
    inner = torch.maximum(padded[..., 1:-2], padded[..., 2:-1])
    outer = torch.minimum(padded[..., :-3], padded[..., 3:])
    above = inner.add((inner - outer).clamp_(min=0), alpha=OVERSHOOT)  # (M, m + 4, m + 1)
    inner = torch.minimum(padded[..., 1:-2], padded[..., 2:-1])
    outer = torch.maximum(padded[..., :-3], padded[..., 3:])
    below = inner.sub((outer - inner).clamp_(min=0), alpha=OVERSHOOT)
    inner = torch.maximum(above[:, 1:-2], above[:, 2:-1])
    outer = torch.minimum(below[:, :-3], below[:, 3:])
    return inner.add((inner - outer).clamp_(min=0), alpha=OVERSHOOT)


def _best(
    padded: Tensor, map_index: Tensor, row: Tensor, column: Tensor, region: Tensor, y: _Axis, x: _Axis
) -> tuple[Tensor, Tensor]:
    """For each map (M,) the highest value in its cells and the first pixel, by row, that has it.

    `map_index`, `row` and `column` (K,) are the map and the position of each cell. A map without cells has the value
    -inf at pixel 0.
    """
    values, pixel_indices = [padded.new_zeros(0)], [map_index.new_zeros(0)]
    most = max(1, VALUES_AT_A_TIME // (y.most * x.most))
    for part in zip(map_index.split(most), row.split(most), column.split(most), strict=True):
        value, pixel_index = _best_of_cells(padded, *part, region, y, x)
        values.append(value)
        pixel_indices.append(pixel_index)
    value, pixel_index = torch.cat(values), torch.cat(pixel_indices)
    highest = value.new_full((len(padded),), -torch.inf).scatter_reduce(0, map_index, value, "amax")
    none = y.weights.shape[1] * x.weights.shape[1]
    pixel_index = torch.where(value == highest[map_index], pixel_index, none)
    first = pixel_index.new_full((len(padded),), none).scatter_reduce(0, map_index, pixel_index, "amin")
    return highest, torch.where(first < none, first, 0)


def _best_of_cells(
    padded: Tensor, map_index: Tensor, row: Tensor, column: Tensor, region: Tensor, y: _Axis, x: _Axis
) -> tuple[Tensor, Tensor]:
    """The highest value (K,) of each cell, -inf where it contains no pixel, and its pixel."""
    samples = padded.unfold(1, 4, 1).unfold(2, 4, 1)[map_index, row, column]  # (K, 4, 4)
    box = region[map_index]
    rows, in_rows = _pixels(y, box, row)  # (K, h)
    columns, in_columns = _pixels(x, box, column)  # (K, w)
    values = y.weights[box[:, None], rows] @ samples @ x.weights[box[:, None], columns].mT  # (K, h, w)
    values.masked_fill_(~(in_rows[:, :, None] & in_columns[:, None]), -torch.inf)
    value, pixel_index = values.flatten(1).max(1)
    high, wide = pixel_index // x.most, pixel_index % x.most
    at_row, at_column = rows.gather(1, high[:, None])[:, 0], columns.gather(1, wide[:, None])[:, 0]
    return value, at_row * x.weights.shape[1] + at_column


def _pixels(axis: _Axis, box: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels (K, most) of cells (K,) of boxes (K,), and whether each is in the cell."""
    pixels = axis.first[box, cell][:, None] + torch.arange(axis.most, device=box.device)
    inside = pixels < axis.last[box, cell][:, None]
    return pixels.clamp(max=axis.weights.shape[1] - 1), inside
