"""Predicted masks as run lengths of the image, without a bitmap of it, as the op `rcnn::mask_runs`.

Letters: N masks of one image, m the side of a mask in its box, T changes that fit into the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.masks import paste_regions
from rcnn.ops.run_lengths import region_changes


@torch.library.custom_op("rcnn::mask_runs", mutates_args=())
def mask_runs(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Where masks change from 0 to 1 or back, along the columns of an image of (`height`, `width`) pixels.

    The pixels are those of `rcnn.ops.masks.paste_regions`. The changes are the cumulative sums of COCO's run lengths.

    Args:
        masks: (N, m, m) floating point, in [0, 1].
        boxes: (N, 4) float xyxy pixels of the image.
        threshold: a pixel is set if its value is at least this; more than 0.
        capacity: T. Further changes of a mask are not written.

    Returns:
        changes: (N, T) int64, positions x * height + y, ascending; -1 where there are no more.
        count: (N,) int64, number of changes; more than T if they did not fit.
    """
    if kernels.usable(masks):
        from rcnn.ops.kernels import mask_runs as kernel

        spans = pasted_spans(boxes, masks.shape[-1], height, width, threshold)
        return kernel.mask_runs(masks, boxes, spans, height, threshold, capacity)
    changes = torch.full((len(masks), capacity), -1, dtype=torch.int64)
    count = torch.zeros(len(masks), dtype=torch.int64)
    for row, region in enumerate(paste_regions(masks, boxes, (height, width), threshold)):
        found = torch.from_numpy(region_changes(*region, height))
        changes[row, : len(found)] = found[:capacity]
        count[row] = len(found)
    return changes.to(masks.device), count.to(masks.device)


@mask_runs.register_fake
def _(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, capacity: int) -> tuple[Tensor, Tensor]:
    return (
        masks.new_empty((len(masks), capacity), dtype=torch.int64),
        masks.new_empty((len(masks),), dtype=torch.int64),
    )


def pasted_spans(boxes: Tensor, side: int, height: int, width: int, threshold: float) -> Tensor:
    """The pixels x0, y0, x1, y1 (N, 4) int64, half open, that masks of `side` samples may set in an image.

    The rule of `paste_regions`: a box that is not finite sets nothing.
    """
    finite = boxes.isfinite().all(-1)  # (N,)
    corners = torch.where(finite[:, None], boxes.float(), 0.0)
    x1, y1, x2, y2 = corners.unbind(-1)
    x, y = (
        _span(low, high, limit, side, threshold) * finite for low, high, limit in ((x1, x2, width), (y1, y2, height))
    )
    return torch.stack([x[0], y[0], x[1], y[1]], -1)


def _span(low: Tensor, high: Tensor, limit: int, side: int, threshold: float) -> Tensor:
    """First pixel and one past the last, (2, N) int64, on one axis of `limit` pixels."""
    margin = torch.ones_like(low)
    if threshold < 0.5:
        margin = 1 + ((high - low).clamp(min=0) / (2 * side)).ceil()
    first = (low.floor() - margin).clamp(0, limit)
    return torch.stack([first, torch.maximum((high.ceil() + margin).clamp(max=limit), first)]).to(torch.int64)
