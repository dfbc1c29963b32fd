"""Boxes: float xyxy, absolute pixels, width = x2 - x1. All boxes of a call are in pixels of the same image.

Letters: B images, N and M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), xyxy pixels; negative if one side is negative (x2 < x1), positive if both are."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of boxes `a` (..., N, 4) and `b` (..., M, 4), xyxy pixels.

    It is 0 without overlap.
    """
    a, b = a.float(), b.float()
    ax1, ay1, ax2, ay2 = a[..., :, None, :].unbind(-1)  # (..., N, 1) each
    bx1, by1, bx2, by2 = b[..., None, :, :].unbind(-1)  # (..., 1, M) each
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # (..., N, M)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def gather_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """The boxes or deltas (B, M, 4) in the rows `index` (B, M) int64 of `boxes` (B, N, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, N, 4), xyxy pixels, clipped to their images of `sizes` (B, 2), (height, width) in the same pixels."""
    limit = sizes.flip(-1).to(boxes.dtype)  # (B, 2): width, height
    limit = torch.cat([limit, limit], -1)[:, None]  # (B, 1, 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def move_ends(boxes: Tensor, by: Tensor | float) -> Tensor:
    """Boxes (B, ..., 4), xyxy pixels, with the right and lower sides moved out by `by` pixels: one value, or (B,)."""
    if isinstance(by, Tensor) and by.ndim:
        by = by.view(-1, *[1] * (boxes.ndim - 1))
    return torch.cat([boxes[..., :2], boxes[..., 2:] + by], -1)


def inside_image(boxes: Tensor, sizes: Tensor, straddle: float = 0.0) -> Tensor:
    """Whether boxes (N, 4), xyxy pixels, leave the images by at most `straddle` pixels: bool (B, N).

    `sizes` (B, 2) are (height, width).
    """
    limit = sizes.flip(-1).to(boxes.dtype)[:, None] + straddle  # (B, 1, 2): width, height
    return (boxes[:, :2] >= -straddle).all(-1) & (boxes[:, 2:] <= limit).all(-1)


def box_ioa(a: Tensor, b: Tensor) -> Tensor:
    """The fraction (..., N, M) of the area of each box `a` (..., N, 4) inside each box `b` (..., M, 4), xyxy pixels.

    It is 0 for boxes without area.
    """
    a, b = a.float()[..., :, None, :], b.float()[..., None, :, :]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides.prod(-1)
    return torch.where(intersection > 0, intersection / box_area(a), 0.0)


def sides_longer_than(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """Whether both sides of the boxes (..., 4), xyxy pixels, are longer than `min_size` pixels, bool (...).

    The comparison is strict, as in Detectron2: 0 excludes boxes without area. A negative size includes them.
    """
    return ((boxes[..., 2] - boxes[..., 0]) > min_size) & ((boxes[..., 3] - boxes[..., 1]) > min_size)
