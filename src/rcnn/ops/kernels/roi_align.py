"""`rcnn::roi_align` on CUDA: one launch for all levels; each program computes one bin of one region.

Maps are read and written channels last, so that neighbouring threads access neighbouring values.
Letters: B images, R regions, C channels, L levels, s the side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.ops.precision import at_least_float32

MAX_CHANNELS = 256  # of a program


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
    """Pooled features (B, R, C, s, s), in memory (B, R, s, s, C); see `rcnn.ops.roi_align`."""
    batch, regions, channels = *boxes.shape[:2], features[0].shape[1]
    out = features[0].new_empty((batch, regions, size, size, channels))
    if out.numel():
        maps = tuple(values.contiguous(memory_format=torch.channels_last) for values in features)
        _launch(_pool_kernel, out, maps, boxes, levels, valid, scales, size, sampling_ratio, aligned)
    return out.permute(0, 1, 4, 2, 3)


def roi_align_backward(
    gradient: Tensor,
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Add to `maps`, L zero tensors (B, C, H_l, W_l), channels last, float32 at least, the gradient of the features.

    `gradient` (B, R, C, s, s) is that of the pooled features. Sums are atomic: their order, and so the last bits,
    differ between calls.
    """
    if gradient.numel():
        flat = gradient.permute(0, 1, 3, 4, 2).contiguous()  # (B, R, s, s, C)
        size = gradient.shape[-1]
        _launch(_spread_kernel, flat, tuple(maps), boxes, levels, valid, scales, size, sampling_ratio, aligned)


def _launch(
    kernel: triton.JITFunction,
    pooled: Tensor,
    maps: tuple[Tensor, ...],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    batch, regions = valid.shape
    channels = pooled.shape[-1]
    block = min(triton.next_power_of_2(channels), MAX_CHANNELS)
    kernel[(batch * regions, size * size, triton.cdiv(channels, block))](
        pooled,
        maps,
        boxes.float().contiguous(),
        levels.contiguous(),
        valid.contiguous().view(torch.uint8),
        tuple(values.shape[2] for values in maps),
        tuple(values.shape[3] for values in maps),
        tuple(float(scale) for scale in scales),
        regions,
        channels,
        LEVELS=len(maps),
        SIZE=size,
        SAMPLING_RATIO=sampling_ratio,
        ALIGNED=aligned,
        BLOCK=block,
        ACCUMULATOR=tl.float64 if at_least_float32(pooled).dtype == torch.float64 else tl.float32,
        num_warps=4 if block > 128 else 2,
        enable_fp_fusion=False,  # sample positions are rounded as in the reference
    )


@triton.jit
def _axis(
    start: tl.tensor, end: tl.tensor, scale: tl.tensor, SIZE: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr
):
    """Start of a region on one axis, side of a bin, both in cells, and samples per bin."""
    offset = 0.5 if ALIGNED else 0.0
    start = start * scale - offset
    extent = end * scale - offset - start
    if not ALIGNED:
        extent = tl.maximum(extent, 1.0)
    side = tl.div_rn(extent, SIZE * 1.0)
    samples = tl.full((), RATIO, tl.int32) if RATIO > 0 else tl.maximum(tl.ceil(side), 0.0).to(tl.int32)
    return start, side, samples


@triton.jit
def _sample(start: tl.tensor, side: tl.tensor, per_bin: tl.tensor, bin: tl.tensor, step: tl.tensor, length: tl.tensor):
    """The two cells of a sample on one axis, the weight of the second, and 1.0 if the sample counts, else 0.0."""
    at = start + bin * side + tl.div_rn((step + 0.5) * side, per_bin)
    inside = ((at >= -1.0) & (at <= length)).to(tl.float32)
    at = tl.minimum(tl.maximum(at, 0.0), length - 1.0)
    low = tl.floor(at)
    first = low.to(tl.int32)
    return first, tl.minimum(first + 1, length - 1), at - low, inside


@triton.jit
def _region(
    maps: tl.tensor,
    boxes: tl.tensor,
    levels: tl.tensor,
    heights: tl.tensor,
    widths: tl.tensor,
    scales: tl.tensor,
    region: tl.tensor,
    LEVELS: tl.constexpr,
    SIZE: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The map of a region, its height and width, and start, side and samples of the bins along y and x."""
    level = tl.load(levels + region).to(tl.int32)
    plane = maps[0]
    height = tl.zeros((), tl.int32) + heights[0]
    width = tl.zeros((), tl.int32) + widths[0]
    scale = tl.zeros((), tl.float32) + scales[0]
    for other in tl.static_range(1, LEVELS):
        if level == other:
            plane = maps[other]
        height = tl.where(level == other, heights[other], height)
        width = tl.where(level == other, widths[other], width)
        scale = tl.where(level == other, scales[other], scale)
    box = boxes + region * 4
    y, y_side, y_samples = _axis(tl.load(box + 1), tl.load(box + 3), scale, SIZE, RATIO, ALIGNED)
    x, x_side, x_samples = _axis(tl.load(box), tl.load(box + 2), scale, SIZE, RATIO, ALIGNED)
    return plane, height, width, y, y_side, y_samples, x, x_side, x_samples


@triton.jit
def _pool_kernel(
    pooled: tl.tensor,  # (B, R, s, s, C), written
    maps: tl.tensor,  # L of (B, H, W, C)
    boxes: tl.tensor,  # (B, R, 4) float32
    levels: tl.tensor,  # (B, R) int64
    valid: tl.tensor,  # (B, R) uint8
    heights: tl.tensor,  # L numbers, as widths and scales
    widths: tl.tensor,
    scales: tl.tensor,
    regions: tl.tensor,
    channels: tl.tensor,
    LEVELS: tl.constexpr,
    SIZE: tl.constexpr,
    SAMPLING_RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    region = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    real = channel < channels
    total = tl.zeros((BLOCK,), ACCUMULATOR)
    if tl.load(valid + region) != 0:
        plane, height, width, y, y_side, y_samples, x, x_side, x_samples = _region(
            maps, boxes, levels, heights, widths, scales, region, LEVELS, SIZE, SAMPLING_RATIO, ALIGNED
        )
        plane += region // regions * height * width * channels
        y_per_bin = tl.maximum(y_samples, 1)
        x_per_bin = tl.maximum(x_samples, 1)
        for row in range(y_samples):
            top, bottom, below, in_y = _sample(y, y_side, y_per_bin.to(tl.float32), cell // SIZE, row, height)
            for column in range(x_samples):
                left, right, beside, in_x = _sample(x, x_side, x_per_bin.to(tl.float32), cell % SIZE, column, width)
                upper = plane + top * width * channels + channel
                lower = plane + bottom * width * channels + channel
                a = tl.load(upper + left * channels, mask=real, other=0.0).to(ACCUMULATOR)
                b = tl.load(upper + right * channels, mask=real, other=0.0).to(ACCUMULATOR)
                c = tl.load(lower + left * channels, mask=real, other=0.0).to(ACCUMULATOR)
                d = tl.load(lower + right * channels, mask=real, other=0.0).to(ACCUMULATOR)
                value = (a * (1 - beside) + b * beside) * (1 - below) + (c * (1 - beside) + d * beside) * below
                total += value * (in_y * in_x)
        total = total / (y_per_bin * x_per_bin)
    place = (region * SIZE * SIZE + cell) * channels + channel
    tl.store(pooled + place, total.to(pooled.dtype.element_ty), mask=real)


@triton.jit
def _spread_kernel(
    gradient: tl.tensor,  # (B, R, s, s, C)
    maps: tl.tensor,  # L of (B, H, W, C), added to
    boxes: tl.tensor,
    levels: tl.tensor,
    valid: tl.tensor,
    heights: tl.tensor,
    widths: tl.tensor,
    scales: tl.tensor,
    regions: tl.tensor,
    channels: tl.tensor,
    LEVELS: tl.constexpr,
    SIZE: tl.constexpr,
    SAMPLING_RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    region = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    real = channel < channels
    if tl.load(valid + region) != 0:
        plane, height, width, y, y_side, y_samples, x, x_side, x_samples = _region(
            maps, boxes, levels, heights, widths, scales, region, LEVELS, SIZE, SAMPLING_RATIO, ALIGNED
        )
        plane += region // regions * height * width * channels
        y_per_bin = tl.maximum(y_samples, 1)
        x_per_bin = tl.maximum(x_samples, 1)
        place = (region * SIZE * SIZE + cell) * channels + channel
        share = tl.load(gradient + place, mask=real, other=0.0).to(ACCUMULATOR) / (y_per_bin * x_per_bin)
        for row in range(y_samples):
            top, bottom, below, in_y = _sample(y, y_side, y_per_bin.to(tl.float32), cell // SIZE, row, height)
            for column in range(x_samples):
                left, right, beside, in_x = _sample(x, x_side, x_per_bin.to(tl.float32), cell % SIZE, column, width)
                upper = plane + top * width * channels + channel
                lower = plane + bottom * width * channels + channel
                value = share * (in_y * in_x)
                tl.atomic_add(upper + left * channels, value * ((1 - beside) * (1 - below)), mask=real, sem="relaxed")
                tl.atomic_add(upper + right * channels, value * (beside * (1 - below)), mask=real, sem="relaxed")
                tl.atomic_add(lower + left * channels, value * ((1 - beside) * below), mask=real, sem="relaxed")
                tl.atomic_add(lower + right * channels, value * (beside * below), mask=real, sem="relaxed")
