"""Diagnostics of the parts of a detector on a training batch, for the log (as in tensorpack).

Letters: B images, S sampled anchors, R sampled regions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rcnn.data.loading import TrainingBatch
from rcnn.drawing.charts import DIAGNOSTICS
from rcnn.models import Detector
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.cascade import CascadeHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.heads.regions import Regions, sample_regions
from rcnn.models.rpn import RANDOM_STREAM, Level
from rcnn.ops.sampling import random_keys, sample
from rcnn.runtime.processes import ALONE, Processes
from rcnn.structures import ImageBatch, Targets

THRESHOLDS = (0.5, 0.7, 0.9)  # of the objectness


class Ratio(NamedTuple):
    """A value as numerator () and denominator (); both are summed over the processes."""

    part: Tensor
    whole: Tensor


@torch.no_grad()
def diagnostics(
    detector: Detector, batch: TrainingBatch, seed: Tensor, *, bf16: bool = False, processes: Processes = ALONE
) -> dict[str, float]:
    """Counts per image and fractions, by their names in the log. Fractions of an empty set are omitted.

    With several processes, all call this, each with its part of the batch; the values are those of the whole batch.

    RPN: precision and recall on the sampled anchors. Box head (the first stage of a cascade): accuracy on the sampled
    regions, and on the positive ones. Mask head: accuracy of the pixels of the positive regions. The samples are those
    that a training step with this `seed` draws. Batch norm uses its running statistics.
    """
    device, training = detector.pixel_mean.device, detector.training
    batch = batch.to(device)
    images, targets = batch.images, batch.targets
    detector.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        features = detector.features(images)
        levels = detector.rpn.head(features)
        values = _of_anchors(detector, levels, images, targets, seed)
        head = detector.box_head.heads()[0] if isinstance(detector.box_head, CascadeHead) else detector.box_head
        if isinstance(head, BoxHead):
            proposals = detector.rpn.training_proposals(levels, images)
            regions = sample_regions(
                proposals,
                targets,
                num_classes=head.num_classes,
                sampling=head.config.sampling,
                append=head.config.append_ground_truth,
                seed=seed,
            )
            outputs = head.predict_regions(features, regions.boxes, regions.valid)
            values |= region_values(outputs.logits, regions)
            if isinstance(detector.mask_head, MaskHead):
                regions = replace(regions, maps=outputs.maps)
                values |= _of_masks(detector.mask_head, features, regions, images, targets)
    detector.train(training)
    sums = torch.stack([torch.stack([value.part, value.whole]).float() for value in values.values()])
    part, whole = processes.mean(sums).unbind(1)
    found = zip(values, (part / whole).tolist(), strict=True)
    return {DIAGNOSTICS + name: number for name, number in found if number == number}  # without NaN


def _of_anchors(
    detector: Detector, levels: list[Level], images: ImageBatch, targets: Targets, seed: Tensor
) -> dict[str, Ratio]:
    """`anchor_values` of the anchors that a training step samples."""
    rpn = detector.rpn
    logits = torch.cat([level.logits for level in levels], 1)  # (B, A)
    _, label = rpn.label(torch.cat([level.anchors for level in levels]), images, targets)
    keys = random_keys(seed, label.shape, RANDOM_STREAM)
    sampling = rpn.config.sampling
    index, positive, valid = sample(label, keys, sampling.batch_size, sampling.max_positives)
    return anchor_values(logits.gather(1, index), positive, valid)


def anchor_values(logits: Tensor, positive: Tensor, valid: Tensor) -> dict[str, Ratio]:
    """Precision and recall of objectness `logits` (B, S) at each threshold, and counts per image.

    `positive` and `valid` (B, S) bool: which anchors are positive, and which belong to the sample.
    """
    objectness, positive = logits.sigmoid(), positive & valid
    images = torch.full((), len(logits), device=logits.device)
    values = {
        "anchors_positive": Ratio(positive.sum(), images),
        "anchors_negative": Ratio((valid & ~positive).sum(), images),
    }
    for threshold in THRESHOLDS:
        found = (objectness > threshold) & valid
        right = (found & positive).sum()
        values[f"rpn_precision_{threshold * 100:.0f}"] = Ratio(right, found.sum())
        values[f"rpn_recall_{threshold * 100:.0f}"] = Ratio(right, positive.sum())
    return values


def region_values(logits: Tensor, regions: Regions) -> dict[str, Ratio]:
    """Accuracy of the class `logits` (B, R, K + 1) of `regions`, and counts per image."""
    right = (logits.argmax(-1) == regions.labels) & regions.valid
    positive, valid = regions.positive & regions.valid, regions.valid
    images = torch.full((), len(logits), device=logits.device)
    return {
        "regions_positive": Ratio(positive.sum(), images),
        "regions_negative": Ratio((valid & ~positive).sum(), images),
        "class_accuracy": Ratio(right.sum(), valid.sum()),
        "class_accuracy_positive": Ratio((right & positive).sum(), positive.sum()),
    }


def _of_masks(
    head: MaskHead, features: dict[str, Tensor], regions: Regions, images: ImageBatch, targets: Targets
) -> dict[str, Ratio]:
    """`mask_accuracy`: the fraction of correct pixels in the masks of the positive regions."""
    positives = regions.positives()
    maps = head.positive_maps(features, positives)
    logits = head.class_logits(maps, positives.labels, positives.positive)  # (B, R, m, m)
    masks = head.targets(positives, targets, logits.shape[-1], images)
    has_mask = positives.positive & head.targets.has_mask(targets).gather(1, positives.matched)  # (B, R)
    right = ((logits > 0) == (masks > 0.5)).flatten(2).float().mean(-1)  # (B, R)
    return {"mask_accuracy": Ratio((right * has_mask).sum(), has_mask.sum())}
