"""Which of the second stage's boxes are detections: thresholds, suppression and the cap.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models.box_rules import HALF_OPEN, BoxRules, Pixel
from rcnn.models.config import BoxHeadConfig
from rcnn.ops.boxes import is_nonempty
from rcnn.ops.nms import nms
from rcnn.ops.soft_nms import soft_nms
from rcnn.structures import Detections


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor,
    sizes: Tensor,
    config: BoxHeadConfig,
    rules: BoxRules = HALF_OPEN,
    pixel: Pixel = 1.0,
    drop_subpixel: bool = False,
) -> Detections:
    """The best detections (B, D) over all classes of images of `sizes` (B, 2), boxes within them.

    Args:
        boxes: (B, R, K, 4) xyxy pixels, or (B, R, 1, 4) where the classes share them.
        scores: (B, R, K) probabilities.
        valid: (B, R) bool.
        sizes: (B, 2) int64, (height, width).
        config: thresholds and kinds of suppression.
        rules: by which boxes are cut to their image.
        pixel: side of a pixel of the file, in pixels of the input: one for all images or (B,).
    """
    batch, regions, classes = scores.shape
    boxes = rules.clip(boxes.expand(-1, -1, classes, -1).flatten(1, 2), sizes, pixel)  # (B, R*K, 4)
    valid = valid[..., None] & (scores > config.score_threshold) & scores.isfinite()
    valid = valid.flatten(1) & is_nonempty(boxes, config.selection.min_size) & boxes.isfinite().all(-1)
    if drop_subpixel:
        side = torch.as_tensor(pixel, dtype=boxes.dtype, device=boxes.device).reshape(-1, 1, 1)
        valid = valid & is_nonempty((boxes / side).round())
    scores, selection = scores.flatten(1), config.selection
    labels = torch.arange(classes, device=boxes.device).repeat(batch, regions)  # (B, R*K)
    groups = torch.zeros_like(labels) if selection.class_agnostic_nms else labels
    if selection.nms == "hard":
        index, kept = nms(boxes, scores, groups, valid, selection.nms_iou, selection.max_detections)
        scores = scores.gather(1, index)
    else:
        sigma = selection.soft_nms_sigma if selection.nms == "soft_gaussian" else 0.0
        index, scores, kept = soft_nms(
            boxes,
            scores,
            groups,
            valid,
            selection.nms_iou,
            sigma,
            selection.soft_nms_threshold,
            selection.max_detections,
        )
    return Detections(
        boxes=boxes.gather(1, index[..., None].expand(-1, -1, 4)) * kept[..., None],
        scores=scores * kept,
        labels=labels.gather(1, index) * kept,
        valid=kept,
    )
