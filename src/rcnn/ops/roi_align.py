"""RoIAlign over a pyramid (He et al. 2017, section 3; Lin et al. 2017, equation 1), as the opaque op `rcnn::roi_align`.

Letters: B images, R regions, C channels, L levels, s the side of a pooled map, n regions of one image and level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from rcnn.ops import kernels
from rcnn.ops.opaque import opaque_op
from rcnn.ops.precision import at_least_float32
from rcnn.ops.torchvision_operators import load_operators, rois_of

REGIONS_AT_A_TIME = 1024  # regions with their interpolation weights in memory at a time, on the CPU


def assign_levels(
    boxes: Tensor,
    lowest: int = 2,
    highest: int = 5,
    canonical_size: float = 224,
    *,
    eps_inside: bool = True,
) -> Tensor:
    """Index (...) int64, from 0 for `lowest`, of the level for boxes (..., 4): larger boxes have coarser levels.

    A box with sides of `canonical_size` pixels has level 4. A small number is added so that boxes on the
    border of two levels have the upper one: inside the logarithm (Detectron2), or after it (torchvision).
    """
    sides = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).float().clamp(min=0).sqrt()
    ratio = sides / canonical_size
    exponent = (ratio + 1e-8).log2() if eps_inside else ratio.log2() + 1e-6
    return (4 + exponent).floor().clamp(lowest, highest).to(torch.int64) - lowest


@opaque_op
def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Features of each region from its own level: `size` x `size` means of bilinear samples.

    Args:
        features: L maps (B, C, H_l, W_l) of one dtype; computed in float32 at least, with sample positions in float32.
        boxes: (B, R, 4) float32 xyxy pixels of the network input; they may extend beyond it.
        levels: (B, R) int64 in [0, L).
        valid: (B, R) bool; invalid regions give zeros and no gradient.
        scales: L numbers of map cells per pixel, 1 / stride.
        sampling_ratio: samples along each side of a bin; 0: one per map cell of the bin, rounded up.
        aligned: shift by half a cell, because a pixel's value is at its centre (Detectron2's ROIAlignV2).

    Returns:
        (B, R, C, size, size) in the features' dtype. The gradient flows to the features, not to the boxes.
    """
    batch, regions, channels = *boxes.shape[:2], features[0].shape[1]
    if kernels.usable(boxes):
        from rcnn.ops.kernels import roi_align as kernel

        return kernel.roi_align(features, boxes, levels, valid, scales, size, sampling_ratio, aligned)
    if boxes.device.type != "cpu":
        return _pool_by_torchvision(features, boxes, levels, valid, scales, size, sampling_ratio, aligned)
    out = features[0].new_zeros((batch * regions, size, size, channels))  # channels last, like the maps
    for image, level, index, rois in _groups(boxes, levels, valid, len(features)):
        plane = features[level][image].permute(1, 2, 0).contiguous()  # (H, W, C)
        for region, window, rows, columns in _windows(rois, index, plane, scales[level], size, sampling_ratio, aligned):
            lines = torch.mm(rows, at_least_float32(window)).view(size, -1, channels)  # (s, w, C)
            out[region] = torch.matmul(columns, lines)
    return out.view(batch, regions, size, size, channels).permute(0, 1, 4, 2, 3)


@opaque_op
def roi_align_backward(
    gradient: Tensor,
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """Gradients of the L maps (B, C, H_l, W_l) from that of the pooled regions (B, R, C, s, s); see `roi_align`."""
    batch, regions, channels, size, _ = gradient.shape
    precise = at_least_float32(gradient)
    maps = [
        precise.new_zeros((batch, channels, h, w)).contiguous(memory_format=torch.channels_last)
        for h, w in zip(heights, widths, strict=True)
    ]
    if kernels.usable(boxes) and not torch.are_deterministic_algorithms_enabled():
        from rcnn.ops.kernels import roi_align as kernel

        kernel.roi_align_backward(gradient, maps, boxes, levels, valid, scales, sampling_ratio, aligned)
        return [value.to(gradient.dtype) for value in maps]
    if boxes.device.type != "cpu":
        return _spread_by_torchvision(gradient, maps, boxes, levels, valid, scales, sampling_ratio, aligned)
    flat = precise.permute(0, 1, 3, 4, 2).reshape(batch * regions, size, size, channels)
    for image, level, index, rois in _groups(boxes, levels, valid, len(maps)):
        plane = maps[level][image].permute(1, 2, 0)  # (H, W, C), contiguous
        for region, window, rows, columns in _windows(rois, index, plane, scales[level], size, sampling_ratio, aligned):
            lines = torch.matmul(columns.t(), flat[region])  # (s, w, C)
            window.addmm_(rows.t(), lines.view(size, -1))
    return [value.to(gradient.dtype) for value in maps]


def _groups(boxes: Tensor, levels: Tensor, valid: Tensor, count: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Image, level, places (n,) in B * R and boxes (n, 4) of the valid regions with the same image and level."""
    regions = boxes.shape[1]
    for image in range(boxes.shape[0]):
        for level in range(count):
            index = ((levels[image] == level) & valid[image]).nonzero()[:, 0]
            if len(index):
                yield image, level, index + image * regions, boxes[image, index].float()


Window = tuple[int, Tensor, Tensor, Tensor]


def _windows(
    rois: Tensor, index: Tensor, plane: Tensor, scale: float, size: int, sampling_ratio: int, aligned: bool
) -> Iterator[Window]:
    """For each region: its index, the window (h, w * C) of the map that it reads, and weights (s, h) and (s, w).

    The samples of a region form a grid and bilinear weights are separable, so pooling is two small matrix products:
    rows x window x columns. `plane` (H, W, C) is contiguous. The views are made by `as_strided`, one call for each,
    because the calls of thousands of regions take longer than their products.
    """
    height, width, channels = plane.shape
    line, start = width * channels, plane.storage_offset()
    dtype = at_least_float32(plane[:0]).dtype
    for chunk, region_indices in zip(rois.split(REGIONS_AT_A_TIME), index.split(REGIONS_AT_A_TIME), strict=True):
        y0, y1, rows = _axis_weights(chunk[:, 1], chunk[:, 3], scale, height, size, sampling_ratio, aligned)
        x0, x1, columns = _axis_weights(chunk[:, 0], chunk[:, 2], scale, width, size, sampling_ratio, aligned)
        rows, columns = rows.to(dtype), columns.to(dtype)
        tall, wide = rows.shape[2], columns.shape[2]
        bounds = torch.stack([region_indices, y0, y1, x0, x1], 1).tolist()
        for i, (region, top, bottom, left, right) in enumerate(bounds):
            h, w = bottom - top, right - left
            if h > 0 and w > 0:
                yield (
                    region,
                    plane.as_strided((h, w * channels), (line, 1), start + top * line + left * channels),
                    rows.as_strided((size, h), (tall, 1), i * size * tall),
                    columns.as_strided((size, w), (wide, 1), i * size * wide),
                )


def _axis_weights(
    start: Tensor, end: Tensor, scale: float, length: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis of `length` cells: first cell (n,), one past the last (n,), and weights (n, size, cells) between.

    A bin is the mean of its samples, and a sample interpolates two cells; a weight is what a cell adds to a bin. A
    sample more than one cell outside the map is zero; closer samples have the border's value.
    """
    # region -> map: x * scale - offset
    offset = 0.5 if aligned else 0.0
    start, end = start * scale - offset, end * scale - offset  # (n,)
    extent = end - start
    if not aligned:
        extent = extent.clamp(min=1.0)

    # sample j of bin i is at start + i * bin_size + (j + 0.5) * bin_size / samples
    bin_size = extent / size
    samples = torch.full_like(bin_size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil().clamp(min=0)
    most = max(1, int(samples.max()))
    i = torch.arange(size, dtype=torch.float32)[:, None]
    j = torch.arange(most, dtype=torch.float32)
    start, bin_size, samples = (value[:, None, None] for value in (start, bin_size, samples))  # (n, 1, 1)
    per_bin = samples.clamp(min=1)
    at = start + i * bin_size + (j + 0.5) * bin_size / per_bin  # (n, size, most)
    inside = (j < samples) & (at >= -1.0) & (at <= length)

    # value of a sample: (1 - share) * map[low] + share * map[high]
    at = at.clamp(0, length - 1)
    low = at.floor()
    share = at - low
    low = low.to(torch.int64)
    high = (low + 1).clamp(max=length - 1)

    # cells that are read: first .. last - 1
    first = torch.where(inside, low, length).amin((1, 2))  # (n,)
    last = torch.where(inside, high, -1).amax((1, 2)) + 1  # at most `first` if no sample is inside
    span = max(1, int((last - first).max()))

    # weights[:, i, cell - first] = sum over the samples of bin i of (1 - share or share) / per_bin
    weight = inside / per_bin
    weights = torch.zeros(len(first), size, span)
    base = first[:, None, None]
    weights.scatter_add_(2, (low - base).clamp(0, span - 1), weight * (1 - share))
    weights.scatter_add_(2, (high - base).clamp(0, span - 1), weight * share)
    return first, last, weights


def _pool_by_torchvision(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align` on an accelerator, without synchronizing: pools each region from every level and selects its own."""
    load_operators()
    rois = rois_of(boxes)
    out = features[0].new_zeros((len(rois), features[0].shape[1], size, size))
    for level, (values, scale) in enumerate(zip(features, scales, strict=True)):
        values = at_least_float32(values)
        pooled = torch.ops.torchvision.roi_align(
            values, rois.to(values.dtype), scale, size, size, sampling_ratio, aligned
        )
        at_level = ((levels == level) & valid).flatten()[:, None, None, None]
        out = torch.where(at_level, pooled.to(out.dtype), out)
    return out.permute(0, 2, 3, 1).contiguous().unflatten(0, boxes.shape[:2]).permute(0, 1, 4, 2, 3)


def _spread_by_torchvision(
    gradient: Tensor,
    maps: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """`roi_align_backward` on an accelerator."""
    load_operators()
    flat, size = at_least_float32(gradient.flatten(0, 1)), gradient.shape[-1]
    rois = rois_of(boxes).to(flat.dtype)
    spread = []
    for level, (like, scale) in enumerate(zip(maps, scales, strict=True)):
        at_level = ((levels == level) & valid).flatten()[:, None, None, None]
        part = torch.where(at_level, flat, 0.0).contiguous()
        spread.append(
            torch.ops.torchvision._roi_align_backward(
                part, rois, scale, size, size, *like.shape, sampling_ratio, aligned
            ).to(gradient.dtype, memory_format=torch.channels_last)
        )
    return spread


@roi_align.register_fake
def _(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    batch, regions, channels = boxes.shape[0], boxes.shape[1], features[0].shape[1]
    return features[0].new_empty((batch, regions, size, size, channels)).permute(0, 1, 4, 2, 3)


@roi_align_backward.register_fake
def _(
    gradient: Tensor,
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    batch, channels = gradient.shape[0], gradient.shape[2]
    return [
        gradient.new_empty((batch, channels, h, w)).contiguous(memory_format=torch.channels_last)
        for h, w in zip(heights, widths, strict=True)
    ]


class _Context(FunctionCtx):
    """What the backward pass needs of the forward pass."""

    saved_tensors: tuple[Tensor, Tensor, Tensor]  # boxes, levels, valid
    sizes: tuple[list[int], list[int]]  # heights and widths of the maps
    settings: tuple[Sequence[float], int, bool]  # scales, sampling_ratio, aligned


def _remember(
    ctx: _Context,
    inputs: tuple[Sequence[Tensor], Tensor, Tensor, Tensor, Sequence[float], int, int, bool],
    output: Tensor,
) -> None:
    features, boxes, levels, valid, scales, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes, levels, valid)
    ctx.sizes = [f.shape[2] for f in features], [f.shape[3] for f in features]
    ctx.settings = scales, sampling_ratio, aligned


def _backward(ctx: _Context, gradient: Tensor) -> tuple[list[Tensor], None, None, None, None, None, None, None]:
    boxes, levels, valid = ctx.saved_tensors
    maps = roi_align_backward(gradient, boxes, levels, valid, *ctx.sizes, *ctx.settings)
    return maps, None, None, None, None, None, None, None


roi_align.register_autograd(_backward, setup_context=_remember)
