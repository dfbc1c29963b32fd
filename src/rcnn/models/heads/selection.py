"""Scored boxes of the second stage -> detections: score threshold, NMS, and a limit per image.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models.config import SelectionConfig
from rcnn.ops.boxes import gather_boxes, sides_longer_than
from rcnn.ops.nms import nms
from rcnn.ops.soft_nms import soft_nms
from rcnn.structures import Detections


def select_detections(
    boxes: Tensor, scores: Tensor, valid: Tensor, config: SelectionConfig, score_threshold: float
) -> Detections:
    """The best detections (B, D) of each image over all classes.

    Args:
        boxes: (B, R, K, 4) xyxy pixels, clipped to the images.
        scores: (B, R, K) probabilities.
        valid: (B, R, K) bool, which boxes take part.
        config: NMS and limits.
        score_threshold: boxes with a score above this are kept.
    """
    batch, regions, classes = scores.shape
    valid = valid & (scores > score_threshold) & scores.isfinite()
    boxes, scores, valid = boxes.flatten(1, 2), scores.flatten(1), valid.flatten(1)  # (B, R * K, ...)
    valid = valid & sides_longer_than(boxes, config.min_size) & boxes.isfinite().all(-1)
    labels = torch.arange(classes, device=boxes.device).repeat(batch, regions)  # (B, R * K)
    groups = torch.zeros_like(labels) if config.class_agnostic_nms else labels
    if config.nms == "hard":
        index, kept = nms(boxes, scores, groups, valid, config.nms_iou, config.max_detections)
        scores = scores.gather(1, index)
    else:
        sigma = config.soft_nms_sigma if config.nms == "soft_gaussian" else 0.0
        index, scores, kept = soft_nms(
            boxes, scores, groups, valid, config.nms_iou, sigma, config.soft_nms_threshold, config.max_detections
        )
    return Detections(
        boxes=torch.where(kept[..., None], gather_boxes(boxes, index), 0.0),  # what is not kept may be NaN
        scores=torch.where(kept, scores, 0.0),
        labels=torch.where(kept, labels.gather(1, index), 0),
        valid=kept,
    )
