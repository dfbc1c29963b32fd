"""Mask head (He et al. 2017, figure 4): a small mask per detection and class.

Letters: B images, R regions, D detections, K classes, m side of a mask (28; C4: 14); E channels and t side of the maps
that the head's own layers get: pooled maps or, with C4, the output of res5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import MaskHeadConfig
from rcnn.models.heads.mask_targets import MaskTargets
from rcnn.models.heads.regions import Regions
from rcnn.models.heads.trunks import Res5, Trunk
from rcnn.models.layers import init_linear, zero_bias
from rcnn.models.pooler import RegionPooler
from rcnn.ops.capacity import valid_prefix
from rcnn.ops.classes import gather_classes
from rcnn.ops.mask_voting import average_masks
from rcnn.ops.precision import at_least_float32
from rcnn.ops.processes import loss_normalizer
from rcnn.structures import Detections, ImageBatch, Targets


@dataclass(frozen=True)
class SharedRes5:
    """The box head's res5, which with C4 the mask head uses too.

    No nn.Module, so that the mask head neither registers nor saves these layers: the box head does.
    """

    layers: Res5


class MaskHead(nn.Module):
    """Regions -> mask logits (K or 1, m, m) per region.

    With FPN (figure 4, right): pooled maps -> `trunk` -> `deconv` -> `logits`. With C4 (figure 4, left): pooled maps ->
    the box head's res5, `box_res5` -> `deconv` -> `logits`; `trunk` is None. `deconv` doubles the side of the map; it
    is None if the trunk does so.
    """

    def __init__(
        self,
        *,
        trunk: Trunk | None,
        box_res5: Res5 | None,
        deconv: nn.ConvTranspose2d | None,
        pooler: RegionPooler,
        num_classes: int,
        config: MaskHeadConfig,
        targets: MaskTargets,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        layers = box_res5 if trunk is None else trunk
        if layers is None:
            raise ValueError(
                "mask.trunk=res5 shares the layers of the box head, but the box head has no res5; set mask.trunk=convs"
            )
        self.config, self.pooler, self.mask_targets, self.rules = config, pooler, targets, rules
        self.shared_res5 = None if box_res5 is None else SharedRes5(box_res5)
        self.trunk, self.deconv = trunk, deconv
        channels = layers.channels if deconv is None else deconv.out_channels
        self.logits = nn.Conv2d(channels, 1 if config.class_agnostic else num_classes, 1)
        init_linear(self.logits, std=0.001)

    def losses(
        self, features: dict[str, Tensor], regions: Regions, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the mask of each positive region's class (section 3)."""
        positives = regions.positives()
        maps = self.positive_maps(features, positives)
        logits = self.class_logits(maps, positives.labels, positives.positive)  # (B, R, m, m)
        with torch.no_grad():
            masks = self.mask_targets(positives, targets, logits.shape[-1], images).to(logits.dtype)
            has_mask = positives.positive & self.mask_targets.has_mask(targets).gather(1, positives.matched)
        loss = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((2, 3))  # (B, R)
        loss = self.config.loss_weight * (loss * has_mask).sum()
        return {"mask": loss / loss_normalizer(has_mask.sum(dtype=loss.dtype))}

    def predict(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The detections with masks: probabilities (B, D, m, m) in the frame of each box."""
        count = valid_prefix(detections.valid)
        boxes, valid, labels = detections.boxes[:, :count], detections.valid[:, :count], detections.labels[:, :count]
        maps = self.region_maps(features, self.rules.last_pixel_to_input(boxes, images.scales_or_one), valid)
        masks = self.class_logits(maps, labels, valid).sigmoid() * valid[..., None, None]
        if self.config.vote_iou > 0:
            masks = average_masks(masks, boxes, detections.scores[:, :count], labels, valid, self.config.vote_iou)
        return replace(detections, masks=F.pad(masks, (0, 0, 0, 0, 0, detections.valid.shape[1] - count)))

    def positive_maps(self, features: dict[str, Tensor], positives: Regions) -> Tensor:
        """Maps (B * R, E, t, t) of the positive regions; with C4, those that the box head has computed."""
        if self.shared_res5 is not None and positives.maps is not None:
            return positives.maps.flatten(0, 1)
        return self.region_maps(features, positives.boxes, positives.positive)

    def region_maps(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Maps (B * R, E, t, t) of regions (B, R, 4), xyxy pixels of the network input: pooled; with C4, after res5."""
        maps = self.pooler(features, boxes, valid).flatten(0, 1)
        return maps if self.shared_res5 is None else self.shared_res5.layers(maps)

    def class_logits(self, maps: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Logits (B, R, m, m) float32 of each region's class `labels` (B, R), from maps (B * R, E, t, t).

        With `class_agnostic`, all classes have the same logits.
        """
        x = maps if self.trunk is None else self.trunk(maps, valid.flatten())
        if self.deconv is not None:
            x = F.relu_(self.deconv(x))
        logits = self.logits(x).unflatten(0, labels.shape)  # (B, R, K or 1, m, m)
        return at_least_float32(gather_classes(logits, labels))


def mask_deconv(in_channels: int, width: int) -> nn.ConvTranspose2d:
    """The layer that doubles the side of the map (figure 4): (N, C, s, s) -> (N, width, 2 s, 2 s)."""
    deconv = nn.ConvTranspose2d(in_channels, width, 2, stride=2)
    nn.init.kaiming_normal_(deconv.weight, mode="fan_out", nonlinearity="relu")
    zero_bias(deconv)
    return deconv
