"""Boxes: float xyxy, absolute pixels, width = x2 - x1."""

from __future__ import annotations

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) in square pixels; a box turned inside out along one axis has a negative area."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of boxes `a` (..., N, 4) and `b` (..., M, 4); 0 without overlap."""
    a, b = a.float(), b.float()
    ax1, ay1, ax2, ay2 = a[..., :, None, :].unbind(-1)  # (..., N, 1) each
    bx1, by1, bx2, by2 = b[..., None, :, :].unbind(-1)  # (..., 1, M) each
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # (..., N, M)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, N, 4) cut to their images, whose `sizes` (B, 2) are (height, width) in pixels."""
    limit = sizes.flip(-1).to(boxes.dtype)  # (B, 2): width, height
    limit = torch.cat([limit, limit], -1)[:, None]  # (B, 1, 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def is_nonempty(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """Which of the boxes (..., 4) have both sides longer than `min_size` pixels, bool (...).

    Longer, not as long: Detectron2's rule, by which 0 drops a box without area. A negative size keeps every box that is
    not inside out by more than that.
    """
    return ((boxes[..., 2] - boxes[..., 0]) > min_size) & ((boxes[..., 3] - boxes[..., 1]) > min_size)
