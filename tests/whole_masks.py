"""Pasted masks as whole images, to compare with systems that return those."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.masks import paste_masks


def whole_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks (N, m, m) in [0, 1] of boxes (N, 4), xyxy pixels, as (N, H, W) bool, in images of `size` (H, W)."""
    canvases = torch.zeros((len(masks), *size), dtype=torch.bool)
    for canvas, (x0, y0, mask) in zip(canvases, paste_masks(masks, boxes, size, threshold), strict=True):
        canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = torch.from_numpy(mask)
    return canvases
