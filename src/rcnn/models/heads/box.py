"""Box head (Girshick 2015, figure 1): class scores and refined boxes of regions.

Letters: B images, R regions, K classes, D detections; C channels and s side of the pooled maps; E channels of the
trunk's output, and t its side if the output is maps (res5: E = 2048, t = 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.box_rules import HALF_OPEN, BoxRules, Pixel
from rcnn.models.config import BoxHeadConfig
from rcnn.models.heads.regions import Regions, sample_regions
from rcnn.models.heads.selection import select_detections
from rcnn.models.heads.trunks import BoxTrunk
from rcnn.models.layers import init_linear
from rcnn.models.pooler import RegionPooler
from rcnn.ops.boxes import gather_boxes
from rcnn.ops.capacity import valid_prefix
from rcnn.ops.classes import gather_classes
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.losses import focal_loss, smooth_l1
from rcnn.ops.precision import at_least_float32
from rcnn.ops.processes import loss_normalizer
from rcnn.structures import Detections, ImageBatch, Proposals, Targets


class PooledRegions(NamedTuple):
    """Features of R regions per image: the pooled maps, the trunk's maps, and the vectors that the last layers read."""

    pooled: Tensor  # (B, R, C, s, s)
    maps: Tensor | None  # (B, R, E, t, t), the output of a trunk that outputs maps; else None
    vectors: Tensor  # (B, R, E), the output of the trunk, or the mean over the cells of `maps`


class BoxOutputs(NamedTuple):
    """Predictions of a box head for R regions per image, float32, and the trunk's maps (C4: res5)."""

    logits: Tensor  # (B, R, K + 1), background last
    deltas: Tensor  # (B, R, K, 4), or (B, R, 1, 4) where the classes share a box
    maps: Tensor | None  # (B, R, E, t, t)


def input_sizes(images: ImageBatch) -> Tensor:
    """The sizes (B, 2) to which detections are clipped: those of the network input."""
    return images.sizes


class BoxHead(nn.Module):
    """Proposals -> detections. `trunk` computes (B * R, E) or (B * R, E, t, t) from pooled maps (B * R, C, s, s)."""

    def __init__(
        self,
        *,
        trunk: BoxTrunk,
        pooler: RegionPooler,
        num_classes: int,
        config: BoxHeadConfig,
        rules: BoxRules = HALF_OPEN,
        clip_sizes: Callable[[ImageBatch], Tensor] = input_sizes,
    ) -> None:
        super().__init__()
        self.config, self.num_classes, self.rules = config, num_classes, rules
        self.pooler, self.clip_sizes = pooler, clip_sizes
        self.trunk = trunk
        self.logits = nn.Linear(trunk.channels, num_classes + 1)
        self.deltas = nn.Linear(trunk.channels, 4 if config.class_agnostic else num_classes * 4)
        init_linear(self.logits, std=0.01)
        init_linear(self.deltas, std=0.001)
        self.class_weights: Tensor | None
        weights = torch.tensor(config.class_weights) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)  # (K + 1,)

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The sampled regions and the two losses (Girshick 2015, section 2.3); other heads train on these regions."""
        config = self.config
        regions = sample_regions(
            proposals,
            targets,
            num_classes=self.num_classes,
            sampling=config.sampling,
            append=config.append_ground_truth,
            seed=seed,
        )
        outputs = self.predict_regions(features, regions.boxes, regions.valid)
        return replace(regions, maps=outputs.maps), self.region_losses(outputs, regions, targets)

    def predict(self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch) -> Detections:
        """The best detections (B, D) over all classes, in pixels of the network input, clipped to the images."""
        count = valid_prefix(proposals.valid)
        regions, valid = proposals.boxes[:, :count], proposals.valid[:, :count]
        outputs = self.predict_regions(features, regions, valid)
        scales = images.scales_or_one
        # last_pixel_to_original: the same boxes, except for systems with inclusive boxes (models/box_rules.py)
        boxes = self.decode(outputs.deltas, self.rules.last_pixel_to_original(regions, scales), pixel_size=scales)
        return self.select(boxes, outputs.logits.softmax(-1)[..., :-1], valid, images)

    def select(self, boxes: Tensor, scores: Tensor, valid: Tensor, images: ImageBatch) -> Detections:
        """Detections (B, D) from boxes (B, R, K or 1, 4), probabilities (B, R, K) and `valid` (B, R)."""
        boxes = boxes.expand(-1, -1, scores.shape[2], -1)
        clipped = self.rules.clip(boxes.flatten(1, 2), self.clip_sizes(images), images.scales_or_one)
        boxes = clipped.view(boxes.shape)
        allowed = valid[..., None] & self.allowed(boxes, images)
        return select_detections(boxes, scores, allowed, self.config.selection, self.config.score_threshold)

    def allowed(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Which boxes (B, R, K, 4) can become detections, bool (B, R, K) or broadcastable to it."""
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)

    def predict_regions(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, feature_gradient: float = 1.0
    ) -> BoxOutputs:
        """Logits and deltas of regions (B, R, 4), xyxy pixels of the input.

        The pooled features of regions that are not `valid` (B, R) are 0. The gradient with respect to the feature maps
        is multiplied by `feature_gradient`.
        """
        regions = self.region_features(features, boxes, valid, feature_gradient)
        logits = at_least_float32(self.logits(regions.vectors))
        deltas = at_least_float32(self.deltas(regions.vectors)).view(*boxes.shape[:2], -1, 4)
        return BoxOutputs(logits, deltas, regions.maps)

    def region_features(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, feature_gradient: float = 1.0
    ) -> PooledRegions:
        """The features of regions (B, R, 4), pooled and passed through the trunk."""
        pooled = self.pooler(features, boxes, valid)
        if feature_gradient != 1.0:
            pooled = torch.lerp(pooled.detach(), pooled, feature_gradient)  # the value is exactly `pooled`
        x = self.trunk(pooled.flatten(0, 1), valid.flatten())
        maps = x.unflatten(0, boxes.shape[:2]) if x.ndim == 4 else None
        vectors = x if maps is None else x.mean((2, 3))
        return PooledRegions(pooled, maps, vectors.unflatten(0, boxes.shape[:2]))

    def score(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (B, R, K) of regions (B, R, 4), which are not refined."""
        return self.predict_regions(features, boxes, valid).logits.softmax(-1)[..., :-1]

    def decode(self, deltas: Tensor, regions: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (B, R, K or 1, 4) from deltas of that shape and regions (B, R, 4); not clipped."""
        weights, limit = self.config.delta_weights, self.config.max_log_scale
        return self.rules.decode(deltas, regions[:, :, None], weights, limit, pixel_size)

    def region_losses(self, outputs: BoxOutputs, regions: Regions, targets: Targets) -> dict[str, Tensor]:
        """The class loss and the box loss (Girshick 2015, equation 1), averaged over the sampled regions."""
        config = self.config
        logits, labels = outputs.logits.flatten(0, 1), regions.labels.flatten()
        normalizer = loss_normalizer(regions.valid.sum(dtype=logits.dtype))
        if config.loss == "focal":
            class_loss = focal_loss(logits, labels, config.focal_gamma)
        else:
            class_loss = F.cross_entropy(logits, labels, reduction="none")
        if self.class_weights is not None:
            class_loss = class_loss * self.class_weights[labels]
        positives = regions.positives()
        predicted_deltas = self.deltas_of_class(outputs.deltas[:, : positives.boxes.shape[1]], positives.labels)
        target_deltas = encode_targets(positives, targets, config.delta_weights)
        box_loss = smooth_l1(predicted_deltas, target_deltas, config.smooth_l1_beta) * positives.positive[..., None]
        return {
            "box_class": config.class_loss_weight * (class_loss * regions.valid.flatten()).sum() / normalizer,
            "box_delta": config.delta_loss_weight * box_loss.sum() / normalizer,
        }

    def deltas_of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """The deltas (B, R, 4) of each region's class `labels` (B, R), from (B, R, K, 4) or (B, R, 1, 4)."""
        if self.config.class_agnostic:
            return deltas[:, :, 0]
        return gather_classes(deltas, labels)


def encode_targets(regions: Regions, targets: Targets, weights: Sequence[float]) -> Tensor:
    """The deltas (B, R, 4) that transform each positive region into its ground-truth box; 0 where not positive."""
    target_boxes = gather_boxes(targets.boxes, regions.matched)
    deltas = encode_deltas(target_boxes, regions.boxes, weights)
    return torch.where(regions.positive[..., None], deltas, 0.0)  # not finite for a region without area
