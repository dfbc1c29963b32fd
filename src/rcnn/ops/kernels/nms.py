"""`rcnn::nms` on CUDA: one program per image processes the boxes by score, and stops when enough are kept.

Letters: B images, N boxes per image, D capacity of the result, T boxes of a tile.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64  # boxes that are compared with each other at a time


def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Indices (B, D) int64 of the boxes that are kept, best first, and whether each is valid; see `rcnn.ops.nms`."""
    batch, number = valid.shape
    index = torch.zeros((batch, keep), dtype=torch.int64, device=boxes.device)
    kept = torch.zeros((batch, keep), dtype=torch.bool, device=boxes.device)
    if index.numel() == 0 or number == 0:
        return index, kept
    order = scores.float().masked_fill(~valid, -torch.inf).sort(dim=1, descending=True, stable=True)[1]
    kept_boxes = torch.empty((batch, keep, 4), dtype=torch.float32, device=boxes.device)
    kept_groups = torch.empty((batch, keep), dtype=torch.int64, device=boxes.device)
    _nms_kernel[(batch,)](
        boxes.float().contiguous(),
        groups.contiguous(),
        valid.contiguous().view(torch.uint8),
        valid.sum(1, dtype=torch.int32),
        order,
        kept_boxes,
        kept_groups,
        index,
        kept.view(torch.uint8),
        number,
        keep,
        _rounded_down(iou_threshold),
        TILE=TILE,
        num_warps=8,
        enable_fp_fusion=False,
    )
    return index, kept


def _rounded_down(value: float) -> float:
    """The largest float32 up to `value`: an IoU in float32 exceeds one exactly if it exceeds the other."""
    rounded = np.float32(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf)))


@triton.jit
def _overlap(
    boxes: tl.tensor,
    groups: tl.tensor,
    x1: tl.tensor,
    y1: tl.tensor,
    x2: tl.tensor,
    y2: tl.tensor,
    group: tl.tensor,
    rows: tl.tensor,
    exist: tl.tensor,
    threshold: tl.tensor,
):
    """Whether the boxes in `rows` (T,) of `boxes`, where they exist, suppress the boxes x1 ... y2 (T,): bool (T, T)."""
    left = tl.load(boxes + rows * 4, mask=exist, other=0.0)[:, None]
    top = tl.load(boxes + rows * 4 + 1, mask=exist, other=0.0)[:, None]
    right = tl.load(boxes + rows * 4 + 2, mask=exist, other=0.0)[:, None]
    bottom = tl.load(boxes + rows * 4 + 3, mask=exist, other=0.0)[:, None]
    own = tl.load(groups + rows, mask=exist, other=0)[:, None]
    width = tl.maximum(tl.minimum(right, x2[None, :]) - tl.maximum(left, x1[None, :]), 0.0)
    height = tl.maximum(tl.minimum(bottom, y2[None, :]) - tl.maximum(top, y1[None, :]), 0.0)
    intersection = width * height
    union = (right - left) * (bottom - top) + ((x2 - x1) * (y2 - y1))[None, :] - intersection
    return (tl.div_rn(intersection, union) > threshold) & (own == group[None, :]) & exist[:, None]


@triton.jit
def _nms_kernel(
    boxes: tl.tensor,  # (B, N, 4) float32
    groups: tl.tensor,  # (B, N) int64
    valid: tl.tensor,  # (B, N) uint8
    valid_count: tl.tensor,  # (B,) int32
    order: tl.tensor,  # (B, N) int64, best first
    kept_boxes: tl.tensor,  # (B, D, 4) float32, written and read again
    kept_groups: tl.tensor,  # (B, D) int64, the same
    index: tl.tensor,  # (B, D) int64, written
    kept: tl.tensor,  # (B, D) uint8, written
    number: tl.tensor,
    capacity: tl.tensor,
    threshold: tl.tensor,
    TILE: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    boxes += image * number * 4
    groups += image * number
    kept_boxes += image * capacity * 4
    kept_groups += image * capacity
    lane = tl.arange(0, TILE)
    remaining = tl.load(valid_count + image)
    start = 0
    count = 0
    while (start < number) & (count < capacity) & (remaining > 0):
        exist = start + lane < number
        rows = tl.load(order + image * number + start + lane, mask=exist, other=0)
        alive = exist & (tl.load(valid + image * number + rows, mask=exist, other=0) != 0)
        remaining -= tl.sum(alive.to(tl.int32), 0)
        x1 = tl.load(boxes + rows * 4, mask=alive, other=0.0)
        y1 = tl.load(boxes + rows * 4 + 1, mask=alive, other=0.0)
        x2 = tl.load(boxes + rows * 4 + 2, mask=alive, other=0.0)
        y2 = tl.load(boxes + rows * 4 + 3, mask=alive, other=0.0)
        group = tl.load(groups + rows, mask=alive, other=0)

        # boxes of earlier tiles suppress those of this one
        for first in range(0, count, TILE):
            earlier = first + lane
            overlap = _overlap(kept_boxes, kept_groups, x1, y1, x2, y2, group, earlier, earlier < count, threshold)
            alive = alive & (tl.max(overlap.to(tl.int32), 0) == 0)

        # within the tile: a box that no undecided better box suppresses is kept, and removes those that it suppresses
        overlap = _overlap(boxes, groups, x1, y1, x2, y2, group, rows, alive, threshold)
        suppresses = (overlap & (lane[:, None] < lane[None, :])).to(tl.int32)
        undecided = alive.to(tl.int32)
        keep = undecided * 0
        while tl.max(undecided, 0) > 0:
            chosen = undecided * (1 - tl.max(suppresses * undecided[:, None], 0))
            keep += chosen
            undecided = undecided * (1 - chosen) * (1 - tl.max(suppresses * chosen[:, None], 0))

        place = count + tl.cumsum(keep, 0) - 1
        fits = (keep > 0) & (place < capacity)
        tl.store(index + image * capacity + place, rows, mask=fits)
        tl.store(kept + image * capacity + place, 1, mask=fits)
        tl.store(kept_boxes + place * 4, x1, mask=fits)
        tl.store(kept_boxes + place * 4 + 1, y1, mask=fits)
        tl.store(kept_boxes + place * 4 + 2, x2, mask=fits)
        tl.store(kept_boxes + place * 4 + 3, y2, mask=fits)
        tl.store(kept_groups + place, group, mask=fits)
        count = tl.minimum(count + tl.sum(keep, 0), capacity)
        tl.debug_barrier()  # the next tile reads what other threads of this program wrote
        start += TILE
