"""Keypoints and their heatmaps (He et al. 2017, section 5): training targets, and decoding.

A heatmap has m * m bins in the frame of a region, one of which contains the keypoint. Training is a softmax over the
bins (`keypoint_bins`). To decode, a heatmap is resized to its box; the keypoint is at the maximum.

Letters: B images, R regions, D detections, J keypoints, m bins of a heatmap's side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.heatmap_maxima import decode_by_bounds
from rcnn.ops.opaque import opaque_op


def keypoint_bins(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Targets of ground-truth keypoints: bin (B, R, J) int64, row * size + column of a heatmap, and `valid` (B, R, J).

    Detectron2's rule: a keypoint (x, y, visibility) of `keypoints` (B, R, J, 3) belongs to the bin that contains it;
    on the right or bottom border of its box (B, R, 4), xyxy pixels, it belongs to the last bin. Keypoints without
    annotation (visibility 0) or outside the box are not valid, and have bin 0.
    """
    corner, side = boxes[:, :, None, :2], (boxes[..., 2:] - boxes[..., :2])[:, :, None]  # (B, R, 1, 2)
    points = keypoints[..., :2]
    position = ((points - corner) * (size / torch.where(side > 0, side, 1.0))).floor()  # (B, R, J, 2) column, row
    position = torch.where(points == boxes[:, :, None, 2:], size - 1, position)
    inside = ((position >= 0) & (position < size)).all(-1) & (side > 0).all(-1)
    valid = inside & (keypoints[..., 2] > 0)
    column, row = torch.where(valid[..., None], position, 0).to(torch.int64).unbind(-1)
    return row * size + column, valid


def decode_by_resizing(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """The definition of `decode_keypoints`: resize each heatmap to its box, and take the maximum.

    For heatmaps (R, J, m, m) float32 and boxes (R, 4), xyxy pixels: x, y, logit and score, (R, J, 4). Slow, one region
    at a time; only tests call it.
    """
    found = heatmaps.new_zeros((*heatmaps.shape[:2], 4))
    for region, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        width, height = max(x2 - x1, 1), max(y2 - y1, 1)
        columns, rows = math.ceil(width), math.ceil(height)
        resized = F.interpolate(heatmaps[region][None], size=(rows, columns), mode="bicubic")[0]  # (J, rows, columns)
        logit, pixel = resized.flatten(1).max(1)  # (J,)
        x = x1 + (pixel % columns + 0.5) * width / columns
        y = y1 + (pixel // columns + 0.5) * height / rows
        score = (logit - heatmaps[region].flatten(1).logsumexp(1)).exp()  # exp(logit) / sum of exp over the heatmap
        found[region] = torch.stack([x, y, logit, score.where(score.isfinite(), 0.0)], 1)
    return found


@opaque_op
def decode_keypoints(maps: Tensor, boxes: Tensor) -> Tensor:
    """The maximum of each heatmap, resized bicubically to its box (Detectron2's heatmaps_to_keypoints).

    Args:
        maps: (B, D, J, m, m) floating point, logits in the frame of each box.
        boxes: (B, D, 4) float32 xyxy pixels. A side counts as at least 1 pixel; memory grows with the longest side.

    Returns:
        (B, D, J, 4) float32: x, y in pixels, the logit there, and its score: exp(logit) over the sum of exp over the
        heatmap, which can slightly exceed 1 because the interpolation overshoots. A heatmap that is not finite gives
        score 0.

    `decode_by_resizing` is the definition; `decode_by_bounds` finds the same keypoints without resizing any heatmap as
    a whole. Of equal maxima, the first in row-major order is returned.
    """
    if kernels.usable(maps):
        from rcnn.ops.kernels import keypoints as kernel

        return kernel.decode_keypoints(maps, boxes)
    found = decode_by_bounds(maps.flatten(0, 1), boxes.flatten(0, 1).float())  # (B * D, J, 4)
    return found.view(*maps.shape[:3], 4)


@decode_keypoints.register_fake
def _(maps: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty((*maps.shape[:3], 4), dtype=torch.float32)
