"""Which of the second stage's boxes are detections: thresholds, suppression and the cap.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    valid = valid.flatten(1) & is_nonempty(boxes, config.min_size) & boxes.isfinite().all(-1)
    if config.drop_subpixel:
        side = torch.as_tensor(pixel, dtype=boxes.dtype, device=boxes.device).reshape(-1, 1, 1)
        valid = valid & is_nonempty((boxes / side).round())
    scores = scores.flatten(1)
    labels = torch.arange(classes, device=boxes.device).repeat(batch, regions)  # (B, R*K)
    groups = torch.zeros_like(labels) if config.class_agnostic_nms else labels
    keep = config.max_detections if config.cap == "best" else _most_candidates(regions, classes, config.score_threshold)
    if config.nms == "hard":
        index, kept = nms(boxes, scores, groups, valid, config.nms_iou, keep)
        scores = scores.gather(1, index)
    else:
        sigma = config.soft_nms_sigma if config.nms == "soft_gaussian" else 0.0
        index, scores, kept = soft_nms(
            boxes, scores, groups, valid, config.nms_iou, sigma, config.soft_nms_threshold, keep
        )
    if config.cap == "unsorted":
        place, left = unsorted_cap(labels.gather(1, index), scores, kept, config.max_detections)
        index, scores, kept = index.gather(1, place), scores.gather(1, place), left
    return Detections(
        boxes=boxes.gather(1, index[..., None].expand(-1, -1, 4)) * kept[..., None],
        scores=scores * kept,
        labels=labels.gather(1, index) * kept,
        valid=kept,
    )


def _most_candidates(regions: int, classes: int, score_threshold: float) -> int:
    """How many boxes of an image can pass the threshold: a region's probabilities add up to 1."""
    passing = int(1 / score_threshold) if score_threshold > 0 else classes
    return regions * min(classes, passing)


def unsorted_cap(labels: Tensor, scores: Tensor, valid: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Those `most` of an image's detections that chainer-mask-rcnn keeps: not its best.

    It has the detections class after class, takes the places that argsort gives for ranks, and keeps detection i if
    the i-th of these places is among the last `most` numbers. Whoever has no more detections than that loses none.

    Args:
        labels: (B, N) int64.
        scores: (B, N) float, best first.
        valid: (B, N) bool, a prefix of each row.
        most: detections kept, an image (D).

    Returns:
        place: (B, D) int64 into N, best first; 0 where not valid.
        valid: (B, D) bool, a prefix of each row.
    """
    last = torch.iinfo(torch.int64).max
    order = torch.where(valid, labels, last).sort(dim=1, stable=True)[1]  # (B, N): class after class, each best first
    real = valid.gather(1, order)
    ranks = torch.where(real, scores.gather(1, order), torch.inf).sort(dim=1, stable=True)[1]  # which they are not
    kept = real & (ranks >= valid.sum(1, keepdim=True) - most)
    kept = torch.zeros_like(kept).scatter(1, order, kept)  # by place again, best first
    place = torch.where(kept, 0, 1).sort(dim=1, stable=True)[1][:, :most]
    left = kept.gather(1, place)
    missing = most - place.shape[1]
    return F.pad(place * left, (0, missing)), F.pad(left, (0, missing))
