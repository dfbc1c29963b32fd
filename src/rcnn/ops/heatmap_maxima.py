"""The fast path of `rcnn.ops.keypoints.decode_keypoints`: maxima of resized heatmaps, found by branch and bound.

Read `decode_by_resizing` in that file first: this one gives the same keypoints, without resizing whole heatmaps.

Bicubic interpolation computes a pixel from the 4 x 4 samples around it. A patch is the square between the four inner
samples: all its pixels depend on the same 16 samples, which also give an upper bound of their values. The search:

1. Interpolate the four patches around the largest sample of a heatmap. Their maximum is a lower bound of the result.
2. Compute the upper bound of every patch.
3. Interpolate the patches with an upper bound that reaches the lower bound. Their maximum is the result.

A heatmap of m * m samples has (m + 1) * (m + 1) patches: patch c of an axis lies between the samples c - 1 and c, with
the border's samples repeated beyond the border.

Letters: R regions, J keypoints, M = R * J heatmaps, m samples of a heatmap's side, S pixels of the longest side of a
box, P patches, h and w the most pixels of a patch's height and width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CUBIC = -0.75  # the bicubic kernel's parameter (Keys 1981, with PyTorch's value)
OVERSHOOT = -CUBIC / 4  # the sum of its two outer weights is at least -OVERSHOOT, reached half way between two samples
REGIONS_AT_A_TIME = 8  # regions of similar size decoded together on the CPU: their heatmaps fit into the cache
REGIONS_ELSEWHERE = 256  # the same on an accelerator
PIXELS_AT_A_TIME = 2**21  # interpolated pixels in memory together
SLACK = 1e-5  # tolerance of a bound for rounding, relative to the largest magnitude in a heatmap


class _Patches(NamedTuple):
    """P patches, each by its heatmap and its position in it: (P,) int64 each."""

    map_index: Tensor
    row: Tensor
    column: Tensor


class _Axis(NamedTuple):
    """The pixels along one axis of R boxes: those in each patch, and their weights of the four samples around them."""

    first: Tensor  # (R, m + 1) int64, the first pixel in each patch
    end: Tensor  # (R, m + 1) int64, one past the last pixel
    weights: Tensor  # (R, S, 4)
    most: int  # the largest number of pixels in a patch

    @property
    def length(self) -> int:
        """Pixels S of the longest side."""
        return self.weights.shape[1]


class _Resizing(NamedTuple):
    """What the interpolation of any patch of M heatmaps needs."""

    padded: Tensor  # (M, m + 4, m + 4), heatmaps with the border's samples repeated twice
    region: Tensor  # (M,) int64, the region of each heatmap
    rows: _Axis
    columns: _Axis


def decode_by_bounds(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """x, y, logit and score (R, J, 4) float32 of heatmaps (R, J, m, m) in boxes (R, 4) float32, as in `keypoints.py`.

    Boxes of similar size are processed together, because each is padded to the longest side among them.
    """
    found = boxes.new_zeros((*heatmaps.shape[:2], 4))
    if found.numel() == 0:
        return found
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    at_a_time = REGIONS_AT_A_TIME if heatmaps.device.type == "cpu" else REGIONS_ELSEWHERE
    for similar in area.argsort().split(at_a_time):
        chunk = heatmaps[similar].float().contiguous()
        points, logits = heatmap_maxima(chunk, boxes[similar])
        scores = (logits - chunk.flatten(2).logsumexp(2)).exp()  # (r, J)
        scores = torch.where(scores.isfinite(), scores, 0.0)
        found[similar] = torch.cat([points, logits[..., None], scores[..., None]], -1)
    return found


def heatmap_maxima(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each heatmap, resized bicubically to its box.

    Args:
        heatmaps: (R, J, m, m) float32 in the frames of the boxes.
        boxes: (R, 4) float32 xyxy pixels. A side counts as at least 1 pixel and is rounded up to whole pixels.

    Returns:
        Its position (R, J, 2), x, y of a pixel's centre, and its value (R, J), -inf in a heatmap with NaN. Of equal
        maxima, the first in row-major order is returned.
    """
    regions, joints, size = heatmaps.shape[:3]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)  # (R, 2) width, height
    pixels = sides.ceil()
    resizing = _Resizing(
        padded=F.pad(heatmaps, (2, 2, 2, 2), mode="replicate").flatten(0, 1),
        region=torch.arange(regions, device=heatmaps.device).repeat_interleave(joints),
        rows=_axis(pixels[:, 1], size),
        columns=_axis(pixels[:, 0], size),
    )
    samples = heatmaps.view(regions * joints, -1)  # (M, m * m)
    lower_bound, _ = _highest_pixels(resizing, _around_largest(samples, size))  # step 1
    slack = SLACK * torch.maximum(samples.amax(1).abs(), samples.amin(1).abs())
    reaching = _upper_bounds(resizing.padded) >= (lower_bound - slack)[:, None, None]  # step 2: (M, m + 1, m + 1)
    map_index, row, column = reaching.nonzero().unbind(1)
    value, pixel = _highest_pixels(resizing, _with_pixels(resizing, _Patches(map_index, row, column)))  # step 3
    length = resizing.columns.length
    position = torch.stack([pixel % length, pixel // length], -1).view(regions, joints, 2)  # column, row
    return (position + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2], value.view(regions, joints)


def _axis(pixels: Tensor, size: int) -> _Axis:
    """The axis of boxes with `pixels` (R,), whole numbers, along it, over heatmaps of `size` samples."""
    number = torch.arange(int(pixels.max()), device=pixels.device)  # (S,), beyond the end of a shorter side too
    at = (number + 0.5) * (size / pixels)[:, None] - 0.5  # (R, S) in samples; -0.5 to size - 0.5
    before = at.floor()  # the last sample before each pixel
    patch = torch.where(number < pixels[:, None], before.to(torch.int64) + 1, size + 1)
    patches = torch.arange(size + 1, device=pixels.device).expand(len(pixels), -1).contiguous()
    first = torch.searchsorted(patch, patches)
    end = torch.searchsorted(patch, patches, right=True)
    return _Axis(first, end, _cubic_weights(at - before), max(1, int((end - first).max())))


def _cubic_weights(distance: Tensor) -> Tensor:
    """Weights (..., 4) of the samples at -1, 0, 1 and 2 for a point at `distance` (...), in [0, 1], from sample 0."""

    def inner(t: Tensor) -> Tensor:
        return ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1

    def outer(t: Tensor) -> Tensor:
        return ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC

    return torch.stack([outer(distance + 1), inner(distance), inner(1 - distance), outer(2 - distance)], -1)


def _around_largest(samples: Tensor, size: int) -> _Patches:
    """The four patches that meet at the largest of the samples (M, m * m) of each heatmap."""
    at = samples.argmax(1)
    below, right = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], device=samples.device).unbind(0)
    row, column = (at // size)[:, None] + below, (at % size)[:, None] + right  # (M, 4)
    map_index = torch.arange(len(samples), device=samples.device).repeat_interleave(4)
    return _Patches(map_index, row.flatten(), column.flatten())


def _upper_bounds(padded: Tensor) -> Tensor:
    """Upper bounds (M, m + 1, m + 1) of the values interpolated in each patch, for padded heatmaps (M, m + 4, m + 4).

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


def _with_pixels(resizing: _Resizing, patches: _Patches) -> _Patches:
    """Those of `patches` that contain the centre of a pixel: in a small box, not all do."""
    region, rows, columns = resizing.region[patches.map_index], resizing.rows, resizing.columns
    filled = (rows.end > rows.first)[region, patches.row] & (columns.end > columns.first)[region, patches.column]
    return _Patches(*(values[filled] for values in patches))


def _highest_pixels(resizing: _Resizing, patches: _Patches) -> tuple[Tensor, Tensor]:
    """For each heatmap (M,), the highest value in its `patches`, and the number of the first pixel that has it.

    Pixels are numbered row by row, in rows of S pixels. A heatmap without patches has the value -inf at pixel 0.
    """
    values, pixels = [resizing.padded.new_zeros(0)], [patches.map_index.new_zeros(0)]
    at_a_time = max(1, PIXELS_AT_A_TIME // (resizing.rows.most * resizing.columns.most))
    for start in range(0, len(patches.row), at_a_time):
        chunk = _Patches(*(indices[start : start + at_a_time] for indices in patches))
        value, pixel = _highest_pixel_of_each(resizing, chunk)
        values.append(value)
        pixels.append(pixel)
    value, pixel, map_index = torch.cat(values), torch.cat(pixels), patches.map_index  # (P,) each
    highest = value.new_full((len(resizing.padded),), -torch.inf).scatter_reduce(0, map_index, value, "amax")
    no_pixel = resizing.rows.length * resizing.columns.length  # more than the number of any pixel
    pixel = torch.where(value == highest[map_index], pixel, no_pixel)
    first = pixel.new_full((len(resizing.padded),), no_pixel).scatter_reduce(0, map_index, pixel, "amin")
    return highest, torch.where(first < no_pixel, first, 0)


def _highest_pixel_of_each(resizing: _Resizing, patches: _Patches) -> tuple[Tensor, Tensor]:
    """The highest value (P,) in each patch, -inf where it contains no pixel, and the number of its pixel."""
    map_index, row, column = patches
    samples = resizing.padded.unfold(1, 4, 1).unfold(2, 4, 1)[map_index, row, column]  # (P, 4, 4)
    region = resizing.region[map_index]
    rows, in_rows = _pixels(resizing.rows, region, row)  # (P, h)
    columns, in_columns = _pixels(resizing.columns, region, column)  # (P, w)
    down, across = resizing.rows.weights[region[:, None], rows], resizing.columns.weights[region[:, None], columns]
    values = down @ samples @ across.mT  # (P, h, w)
    values.masked_fill_(~(in_rows[:, :, None] & in_columns[:, None]), -torch.inf)
    value, at = values.flatten(1).max(1)
    at_row = rows.gather(1, (at // resizing.columns.most)[:, None])[:, 0]
    at_column = columns.gather(1, (at % resizing.columns.most)[:, None])[:, 0]
    return value, at_row * resizing.columns.length + at_column


def _pixels(axis: _Axis, region: Tensor, patch: Tensor) -> tuple[Tensor, Tensor]:
    """Along an axis: the pixels (P, most) of each `patch` (P,) of a `region` (P,), and which of them it contains."""
    pixels = axis.first[region, patch][:, None] + torch.arange(axis.most, device=region.device)
    inside = pixels < axis.end[region, patch][:, None]
    return pixels.clamp(max=axis.length - 1), inside
