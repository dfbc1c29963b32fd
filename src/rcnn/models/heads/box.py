"""Box head (Girshick 2015, figure 1): what is in each region, and where exactly.

Letters: B images, R regions, K classes, C channels, D detections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.box_rules import HALF_OPEN, BoxRules, Pixel
from rcnn.models.config import BackboneConfig, BoxHeadConfig
from rcnn.models.heads.box_features import build_box_features
from rcnn.models.heads.regions import Regions, pool_regions, sample_regions
from rcnn.models.heads.selection import select_detections
from rcnn.models.layers import init_linear
from rcnn.ops.capacity import live_prefix
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.losses import focal_loss, smooth_l1
from rcnn.structures import Detections, Proposals, Targets


class BoxOutputs(NamedTuple):
    """What a box head says of R regions of each image, float32; and with res5 the maps that it made of them."""

    logits: Tensor  # (B, R, K + 1), background last
    deltas: Tensor  # (B, R, K, 4), or (B, R, 1, 4) where the classes share a box
    maps: Tensor | None  # (B, R, 2048, 7, 7)


class BoxHead(nn.Module):
    """Proposals -> detections: class scores, background last, and boxes of each class or one for all."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: BoxHeadConfig,
        backbone: BackboneConfig,
        level_eps_inside: bool = True,
        rules: BoxRules = HALF_OPEN,
        drop_subpixel: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.num_classes, self.strides, self.rules = config, num_classes, strides, rules
        self.level_eps_inside, self.drop_subpixel = level_eps_inside, drop_subpixel
        self.trunk = build_box_features(config, in_channels, backbone)
        self.logits = nn.Linear(self.trunk.channels, num_classes + 1)
        self.deltas = nn.Linear(self.trunk.channels, 4 if config.class_agnostic else num_classes * 4)
        init_linear(self.logits, std=0.01)
        init_linear(self.deltas, std=0.001)
        self.class_weights: Tensor | None
        weights = torch.tensor(config.class_weights) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)  # (K + 1,)

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The sampled regions (the mask head trains on the objects among them) and the two losses of Fast R-CNN."""
        config = self.config
        regions = sample_regions(
            proposals,
            targets,
            num_classes=self.num_classes,
            sampling=config.sampling,
            append=config.append_ground_truth,
            seed=seed,
        )
        outputs = self.classify(features, regions.boxes, regions.valid)
        losses = self.region_losses(outputs, regions, targets, config.sampling.max_positives)
        return replace(regions, features=outputs.maps), losses

    def predict(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor, scales: Tensor | None = None
    ) -> Detections:
        """The best detections (B, D) over all classes of images of `sizes` (B, 2), boxes within them.

        `scales` (B,) are those by which the images were resized: inclusive boxes end with a pixel of the file.
        """
        live = live_prefix(proposals.valid)
        regions, valid = proposals.boxes[:, :live], proposals.valid[:, :live]
        outputs = self.classify(features, regions, valid)
        scores = outputs.logits.softmax(-1)[..., :-1]  # (B, R, K)
        pixel = 1.0 if scales is None else scales
        boxes = self.decode(outputs.deltas, self.rules.in_file(regions, scales), pixel)
        return select_detections(boxes, scores, valid, sizes, self.config, self.rules, pixel, self.drop_subpixel)

    def classify(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, feature_gradient: float = 1.0
    ) -> BoxOutputs:
        """Scores and deltas of the regions `boxes` (B, R, 4); the gradient into the maps is multiplied by a factor."""
        pooled = pool_regions(
            features, self.strides, boxes, valid, self.config.pooler, self.level_eps_inside, self.rules
        )
        if feature_gradient != 1.0:
            pooled = torch.lerp(pooled.detach(), pooled, feature_gradient)  # the value is `pooled` exactly
        x = self.trunk(pooled.flatten(0, 1), valid.flatten())
        maps = x.unflatten(0, boxes.shape[:2]) if x.ndim == 4 else None
        if maps is not None:
            x = x.mean((2, 3))
        logits = self.logits(x).float().unflatten(0, boxes.shape[:2])
        deltas = self.deltas(x).float().view(*boxes.shape[:2], -1, 4)
        return BoxOutputs(logits, deltas, maps)

    def decode(self, deltas: Tensor, regions: Tensor, pixel: Pixel = 1.0) -> Tensor:
        """Boxes (B, R, K or 1, 4) that `deltas` of that shape lead to from `regions` (B, R, 4); not clipped."""
        weights, most = self.config.delta_weights, self.config.max_log_scale
        return self.rules.decode(deltas, regions[:, :, None], weights, most, pixel)

    def region_losses(self, outputs: BoxOutputs, regions: Regions, targets: Targets, most: int) -> dict[str, Tensor]:
        """Both losses, over the number of regions; an image has at most `most` objects among its regions, in front."""
        config = self.config
        count = regions.valid.sum().clamp(min=1)
        logits, labels = outputs.logits.flatten(0, 1), regions.labels.flatten()
        if config.loss == "focal":
            classes = focal_loss(logits, labels, config.focal_gamma)
        else:
            classes = F.cross_entropy(logits, labels, reduction="none")
        if self.class_weights is not None:
            classes = classes * self.class_weights[labels]
        objects = regions.objects(most)
        rows = objects.boxes.shape[1]
        target = targets.boxes.gather(1, objects.matched[..., None].expand(-1, -1, 4))
        # a region that is no object may be empty, and an empty box has no logarithm: a unit square stands in
        square = torch.cat([objects.boxes[..., :2], objects.boxes[..., :2] + 1], -1)
        source = torch.where(objects.positive[..., None], objects.boxes, square)
        target = torch.where(objects.positive[..., None], target, square)
        wanted = encode_deltas(target, source, config.delta_weights)
        moved = smooth_l1(self.of_class(outputs.deltas[:, :rows], objects.labels), wanted, config.smooth_l1_beta)
        return {
            "box_class": (classes * regions.valid.flatten()).sum() / count,
            "box_delta": config.delta_loss_weight * (moved * objects.positive[..., None]).sum() / count,
        }

    def of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Deltas (B, R, 4) of each region's class (B, R), out of (B, R, K, 4); the only ones of (B, R, 1, 4)."""
        if self.config.class_agnostic:
            return deltas[:, :, 0]
        own = labels.clamp(max=self.num_classes - 1)[..., None, None].expand(-1, -1, 1, 4)
        return deltas.gather(2, own)[:, :, 0]
