"""Keypoint head (He et al. 2017, section 5): for each keypoint a map of the region, in which one place is it.

Letters: B images, R regions, D detections, J keypoints, m the maps' side (four times the pooled regions': 56).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.backbones.fbnet import FBNetBlock, keypoint_blocks, keypoint_logits
from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import BackboneConfig, FBNetConfig, KeypointHeadConfig
from rcnn.models.heads.regions import Regions, pool_regions
from rcnn.models.layers import Conv2d, zero_bias
from rcnn.ops.capacity import live_prefix
from rcnn.ops.keypoints import decode_keypoints, keypoint_places
from rcnn.structures import Detections, Targets


class KeypointHead(nn.Module):
    """Regions -> logits (J, m, m) each, the same whatever the region's class."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        config: KeypointHeadConfig,
        backbone: BackboneConfig,
        level_eps_inside: bool = True,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.config, self.strides, self.level_eps_inside, self.rules = config, strides, level_eps_inside, rules
        count = len(config.names)
        require_consistent(config)
        if config.trunk == "fbnet":  # whose blocks enlarge the map themselves
            width = backbone.width if isinstance(backbone, FBNetConfig) else 1.0
            self.trunk: nn.Module = keypoint_blocks(width)
            self.logits: nn.ConvTranspose2d | FBNetBlock = keypoint_logits(width, count)
            return
        self.trunk = nn.Sequential()
        for number in range(1, config.convs + 1):
            self.trunk.add_module(f"conv{number}", Conv2d(in_channels, config.width, 3, relu=True))
            in_channels = config.width
        self.logits = nn.ConvTranspose2d(in_channels, count, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.logits.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(self.logits)

    def losses(
        self,
        features: dict[str, Tensor],
        regions: Regions,
        targets: Targets,
        most: float,
        scales: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Softmax cross-entropy over the m * m places of each keypoint that is given and lies in its region.

        An image has at most `most` objects. The loss is divided by those keypoints (normalizer=visible), or by the
        keypoints of `most` objects in each image (batch_size). `scales` (B,) are those by which images were resized.
        """
        if targets.keypoints is None:
            raise ValueError("a keypoint head needs Targets.keypoints; the batch has none")
        if targets.keypoints.shape[2] != len(self.config.names):
            raise ValueError(
                f"objects have {targets.keypoints.shape[2]} keypoints, this model {len(self.config.names)} "
                f"({', '.join(self.config.names[:3])}, ...): set keypoint.names to those of the data set"
            )
        objects = regions.objects(max(1, int(most)))
        logits = self.maps(features, objects.boxes, objects.positive)  # (B, R, J, m, m)
        index = objects.matched[..., None, None].expand(-1, -1, *targets.keypoints.shape[2:])
        points = self.rules.raw_points(targets.keypoints.gather(1, index), 1.0 if scales is None else scales)
        place, counts = keypoint_places(points, self.rules.raw(objects.boxes), logits.shape[-1])
        counts = counts & objects.positive[..., None]  # (B, R, J)
        loss = F.cross_entropy(logits.flatten(3).flatten(0, 2), place.flatten(), reduction="none")
        loss = self.config.loss_weight * (loss * counts.flatten()).sum()
        if self.config.normalizer == "batch_size":
            return {"keypoint": loss / (len(regions.boxes) * most * logits.shape[2])}
        return {"keypoint": loss / counts.sum().clamp(min=1)}

    def predict(self, features: dict[str, Tensor], detections: Detections, scales: Tensor | None = None) -> Detections:
        """The detections with their keypoints (B, D, J, 3): x, y in pixels of the network input, and score.

        `scales` (B,) are those by which the images were resized.
        """
        live = live_prefix(detections.valid)
        boxes, valid = detections.boxes[:, :live], detections.valid[:, :live]
        maps = self.maps(features, self.rules.in_input(boxes, scales), valid)
        if self.rules.inclusive:  # found in the file's pixels, as its boxes are
            pixel = torch.ones_like(boxes[:, 0, 0]) if scales is None else scales
            by = pixel[:, None, None]  # (B, 1, 1)
            found = decode_keypoints(maps, self.rules.raw(boxes, pixel) / by)  # (B, D, J, 4)
            found = torch.cat([(found[..., :2] + 0.5) * by[..., None], found[..., 2:]], -1)
        else:
            found = decode_keypoints(maps, boxes)
        points = torch.cat([found[..., :2], found[..., 3:]], -1) * valid[..., None, None]
        return replace(detections, keypoints=F.pad(points, (0, 0, 0, 0, 0, detections.valid.shape[1] - live)))

    def maps(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Logits (B, R, J, m, m) float32 in the frames of regions (B, R, 4)."""
        x = pool_regions(features, self.strides, boxes, valid, self.config.pooler, self.level_eps_inside, self.rules)
        logits = self.logits(self.trunk(x.flatten(0, 1))).float()
        if not isinstance(self.logits, FBNetBlock):
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits.unflatten(0, boxes.shape[:2])


def require_consistent(config: KeypointHeadConfig) -> None:
    """A ValueError unless sigmas, flip pairs and skeleton belong to the keypoints that `config` names."""
    count = len(config.names)
    if not count:
        raise ValueError("keypoint.names is empty: name the keypoints that are to be found")
    if len(config.sigmas) != count:
        raise ValueError(f"keypoint.sigmas are {len(config.sigmas)} numbers for {count} keypoint.names: give one each")
    for name, pairs in (("flip_pairs", config.flip_pairs), ("skeleton", config.skeleton)):
        if strangers := [pair for pair in pairs if not all(0 <= place < count for place in pair)]:
            raise ValueError(f"keypoint.{name} holds {strangers[0]}; the {count} keypoints are numbered from 0")
