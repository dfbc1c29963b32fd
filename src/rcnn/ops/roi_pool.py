"""RoI pooling (Girshick 2015, section 2.1): the maximum of each rounded bin of a region, as the op `rcnn::roi_pool`.

Letters: B images, R regions, C channels, L levels, s the side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from rcnn.ops.opaque import opaque_op
from rcnn.ops.precision import at_least_float32
from rcnn.ops.torchvision_operators import load_operators, rois_of


@opaque_op
def roi_pool(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, scales: Sequence[float], size: int
) -> tuple[Tensor, Tensor]:
    """Features of each region from its own level: the maxima of `size` x `size` bins of whole cells.

    A region's corners are rounded to cells, and the last cell is inclusive (Caffe's rule), so it has at least one.

    Args:
        features: L maps (B, C, H_l, W_l) of one dtype.
        boxes: (B, R, 4) float32 xyxy pixels of the network input.
        levels: (B, R) int64 in [0, L).
        valid: (B, R) bool; invalid regions give zeros and no gradient.
        scales: L numbers of map cells per pixel, 1 / stride.

    Returns:
        pooled: (B, R, C, size, size) in the features' dtype; empty bins are 0. The gradient flows to the maxima.
        argmax: the same shape, int32: index of each maximum in its map (H_l * W_l), -1: none.
    """
    load_operators()
    shape = (*boxes.shape[:2], features[0].shape[1], size, size)
    pooled, argmax = features[0].new_zeros(shape), torch.full(shape, -1, dtype=torch.int32, device=boxes.device)
    flat, flat_argmax = pooled.flatten(0, 1), argmax.flatten(0, 1)
    rois = rois_of(boxes)
    for level, (values, scale) in enumerate(zip(features, scales, strict=True)):
        at_level = ((levels == level) & valid).flatten()
        rows = _rows(at_level)
        values = at_least_float32(values)
        maxima, index = torch.ops.torchvision.roi_pool(values, rois[rows].to(values.dtype), scale, size, size)
        valid_rows = at_level[rows, None, None, None]
        flat[rows] = torch.where(valid_rows, maxima.to(flat.dtype), flat[rows])
        flat_argmax[rows] = torch.where(valid_rows, index, flat_argmax[rows])
    return pooled, argmax


def _rows(used: Tensor) -> Tensor:
    """Indices of the regions to pool from a level: `used` (n,) bool; on an accelerator all, to avoid a sync."""
    return used.nonzero()[:, 0] if used.device.type == "cpu" else torch.arange(len(used), device=used.device)


@opaque_op
def roi_pool_backward(
    gradient: Tensor,
    argmax: Tensor,
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
) -> list[Tensor]:
    """Gradients of the L maps (B, C, H_l, W_l) from that of the pooled regions (B, R, C, s, s); see `roi_pool`."""
    batch, channels = len(gradient), gradient.shape[2]
    maps = []
    for level, (height, width) in enumerate(zip(heights, widths, strict=True)):
        at_level = ((levels == level) & valid)[:, :, None, None, None] & (argmax >= 0)
        index = torch.where(at_level, argmax, 0).to(torch.int64).transpose(1, 2).reshape(batch, channels, -1)
        values = torch.where(at_level, at_least_float32(gradient), 0.0).transpose(1, 2).reshape(batch, channels, -1)
        spread = values.new_zeros(batch, channels, height * width).scatter_add_(2, index, values)
        maps.append(spread.view(batch, channels, height, width).to(gradient.dtype))
    return maps


@roi_pool.register_fake
def _(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, scales: Sequence[float], size: int
) -> tuple[Tensor, Tensor]:
    shape = (*boxes.shape[:2], features[0].shape[1], size, size)
    return features[0].new_empty(shape), boxes.new_empty(shape, dtype=torch.int32)


@roi_pool_backward.register_fake
def _(
    gradient: Tensor,
    argmax: Tensor,
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
) -> list[Tensor]:
    return [gradient.new_empty((len(gradient), gradient.shape[2], h, w)) for h, w in zip(heights, widths, strict=True)]


class _Context(FunctionCtx):
    """What the backward pass needs of the forward pass."""

    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor]  # argmax, boxes, levels, valid
    sizes: tuple[list[int], list[int]]  # heights and widths of the maps


def _remember(
    ctx: _Context,
    inputs: tuple[Sequence[Tensor], Tensor, Tensor, Tensor, Sequence[float], int],
    output: tuple[Tensor, Tensor],
) -> None:
    features, boxes, levels, valid, _, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], boxes, levels, valid)
    ctx.sizes = [f.shape[2] for f in features], [f.shape[3] for f in features]


def _backward(ctx: _Context, gradient: Tensor, _: Tensor | None) -> tuple[list[Tensor], None, None, None, None, None]:
    argmax, boxes, levels, valid = ctx.saved_tensors
    return roi_pool_backward(gradient, argmax, boxes, levels, valid, *ctx.sizes), None, None, None, None, None


roi_pool.register_autograd(_backward, setup_context=_remember)
