"""Regions cropped from maps and resized bilinearly, one sample per output cell: the predecessors of RoIAlign.

Letters: B images, R regions, C channels, L levels, s the side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.precision import at_least_float32


def crop_resize(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    valid: Tensor,
    scales: Sequence[float],
    size: int,
    rule: Literal["affine", "crop_resize", "normalized"],
) -> Tensor:
    """Features of each region from its own level: `size` x `size` bilinear samples with aligned corners.

    affine: from border to border of the region, zero outside the map (mask-faster-rcnn's affine grid with aligned
    corners, TensorFlow's crop_and_resize, RoIWarp: Dai et al. 2016). crop_resize: the region is first rounded to whole
    cells, at least one, and sampled from the first to the last of them (chainer-mask-rcnn). normalized: affine, but the
    first and last pixels of the input coincide with the first and last cells of the map (matterport).

    Args:
        features: L maps (B, C, H_l, W_l) of one dtype; the arithmetic is float32 at least.
        boxes: (B, R, 4) xyxy pixels of the network input.
        levels: (B, R) int64 in [0, L).
        valid: (B, R) bool; invalid regions give zeros and no gradient.
        scales: L numbers of map cells per pixel, 1 / stride.
        size: side s of the pooled map, cells.
        rule: where the samples are, see above.

    Returns:
        (B, R, C, size, size) in the features' dtype. The gradient flows to the features, not to the boxes.
    """
    pooled = None
    for level, (values, scale) in enumerate(zip(features, scales, strict=True)):
        at_level = (levels == level) & valid
        corners = boxes.detach() * scale
        height, width = values.shape[2:]
        if rule == "crop_resize":
            corners = _whole_cells(corners, height, width)
        elif rule == "normalized":
            ends = [(side - 1) / max(side - scale, 1e-6) for side in (width, height)]  # cells per pixel
            corners = corners * corners.new_tensor(ends * 2)
        corners = torch.where(at_level[..., None], corners, 0.0)  # invalid rows may contain any values
        part = _samples(values, corners, size) * at_level[..., None, None, None]
        pooled = part if pooled is None else pooled + part
    if pooled is None:
        raise ValueError("features is empty; expected one feature map or more")
    return pooled.to(features[0].dtype)


def _whole_cells(corners: Tensor, height: int, width: int) -> Tensor:
    """First and last cells (B, R, 4), x y x y, of regions with `corners` (B, R, 4) in cells of a map."""
    limit = corners.new_tensor([width, height])
    first = corners[..., :2].round()
    end = torch.minimum(torch.maximum(corners[..., 2:].round(), first + 1), limit)  # past the last cell
    first = torch.minimum(first.clamp(min=0), limit - 1)
    return torch.cat([first, torch.maximum(end - 1, first)], -1)


def _samples(values: Tensor, corners: Tensor, size: int) -> Tensor:
    """Samples (B, R, C, size, size) of a map (B, C, H, W), from corner to corner; cell centres are integers."""
    height, width = values.shape[2:]
    share = torch.linspace(0, 1, size, dtype=corners.dtype, device=corners.device)
    x1, y1, x2, y2 = corners[..., None].unbind(2)  # (B, R, 1) each
    # grid_sample's coordinates run from -1 at the first cell to 1 at the last; a map of one cell is a special case
    x = (x1 + (x2 - x1) * share) * (2 / max(1, width - 1)) - 1  # (B, R, s)
    y = (y1 + (y2 - y1) * share) * (2 / max(1, height - 1)) - 1
    grid = torch.stack([x[:, :, None].expand(-1, -1, size, -1), y[..., None].expand(-1, -1, -1, size)], -1)
    precise = at_least_float32(values)
    found = F.grid_sample(precise, grid.flatten(1, 2).to(precise.dtype), padding_mode="zeros", align_corners=True)
    return found.unflatten(2, (corners.shape[1], size)).transpose(1, 2)  # from (B, C, R, s, s)
