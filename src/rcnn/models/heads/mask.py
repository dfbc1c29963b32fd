"""Mask head (He et al. 2017, figure 4): the outline of each detection, a small map for every class.

Letters: B images, R regions, D detections, K classes, m the mask's side (28, or 14 for C4).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.backbones.fbnet import mask_blocks
from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import BackboneConfig, FBNetConfig, MaskHeadConfig
from rcnn.models.heads.box_features import Convs, add_convs
from rcnn.models.heads.regions import Regions, pool_regions
from rcnn.models.layers import init_linear, zero_bias
from rcnn.ops.bitmap_targets import cut_bitmaps
from rcnn.ops.capacity import live_prefix
from rcnn.ops.mask_voting import average_masks
from rcnn.ops.masks import crop_bitmaps
from rcnn.ops.polygons import crop_polygons
from rcnn.structures import Detections, Targets


class MaskHead(nn.Module):
    """Regions -> mask logits (K or 1, m, m) each; `shared` is the box head's res5, where the two share it (C4)."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: MaskHeadConfig,
        backbone: BackboneConfig,
        level_eps_inside: bool = True,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.config, self.strides, self.level_eps_inside, self.rules = config, strides, level_eps_inside, rules
        channels = in_channels
        self.trunk: nn.Module | None = None
        if config.trunk == "fbnet":
            self.trunk = mask_blocks(backbone.width if isinstance(backbone, FBNetConfig) else 1.0)
            channels = self.trunk.channels
        elif config.trunk == "convs":
            self.trunk = Convs()
            channels = add_convs(self.trunk, channels, config.convs, config.width, config.norm, config.norm_after_relu)
        self.deconv = None
        if config.trunk != "fbnet":  # whose blocks have enlarged the map already
            self.deconv = nn.ConvTranspose2d(channels, config.width, 2, stride=2)
            nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(self.deconv)
            channels = config.width
        self.logits = nn.Conv2d(channels, 1 if config.class_agnostic else num_classes, 1)
        init_linear(self.logits, std=0.001)

    def losses(
        self, features: dict[str, Tensor], regions: Regions, targets: Targets, most: int, sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of each object's own class (section 3); an image has at most `most` objects.

        `sizes` (B, 2) are the images' own, without padding; None: all is image.
        """
        objects = regions.objects(most)
        maps = objects.features
        maps = self.pool(features, objects.boxes, objects.positive) if maps is None else maps.flatten(0, 1)
        logits = self.of_class(maps, objects.labels, objects.positive)  # (B, R, m, m)
        wanted = self.targets(objects, targets, logits.shape[-1], sizes)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3))  # (B, R)
        drawn = objects.positive & self.outlined(targets).gather(1, objects.matched)
        return {"mask": (loss * drawn).sum() / drawn.sum().clamp(min=1)}

    def predict(
        self,
        features: dict[str, Tensor],
        detections: Detections,
        shared: nn.Module | None,
        scales: Tensor | None = None,
    ) -> Detections:
        """The detections with their masks: probabilities (B, D, m, m) in the frame of each box.

        `scales` (B,) are those by which the images were resized: inclusive boxes end with a pixel of the file.
        """
        live = live_prefix(detections.valid)
        boxes = self.rules.in_input(detections.boxes[:, :live], scales)
        maps = self.pool(features, boxes, detections.valid[:, :live])
        if shared is not None:
            maps = shared(maps)
        masks = self.of_class(maps, detections.labels[:, :live], detections.valid[:, :live]).sigmoid()
        masks = masks * detections.valid[:, :live, None, None]
        if self.config.vote_iou > 0:
            masks = average_masks(
                masks,
                detections.boxes[:, :live],
                detections.scores[:, :live],
                detections.labels[:, :live],
                detections.valid[:, :live],
                self.config.vote_iou,
            )
        missing = detections.valid.shape[1] - live
        return replace(detections, masks=F.pad(masks, (0, 0, 0, 0, 0, missing)))

    def pool(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Regions' features (B*R, C, s, s)."""
        pooled = pool_regions(
            features, self.strides, boxes, valid, self.config.pooler, self.level_eps_inside, self.rules
        )
        return pooled.flatten(0, 1)

    def of_class(self, maps: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """Logits (B, R, m, m) float32 of each region's own class (B, R), or of all, from maps (B*R, C, s, s)."""
        x = maps if self.trunk is None else self.trunk(maps, real.flatten())
        if self.deconv is not None:
            x = F.relu(self.deconv(x))
        logits = self.logits(x).unflatten(0, labels.shape)  # (B, R, K or 1, m, m)
        own = labels.clamp(max=logits.shape[2] - 1)  # a background region has a label too
        own = own[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
        return logits.gather(2, own)[:, :, 0].float()

    def outlined(self, targets: Targets) -> Tensor:
        """Which true objects (B, G) have a mask to learn: some are annotated by their box alone."""
        if self.config.target == "polygon" and targets.polygons is not None:
            return (targets.polygons[..., 4] >= 0).any(-1)
        return targets.valid if targets.bitmaps is None else targets.bitmaps.flatten(2).any(-1)

    @torch.no_grad()
    def targets(self, regions: Regions, targets: Targets, size: int, sizes: Tensor | None = None) -> Tensor:
        """True masks (B, R, size, size) float32 in each region's frame."""
        matched, boxes, positive = regions.matched, regions.boxes, regions.positive
        if self.config.target == "polygon":
            if targets.polygons is None:
                raise ValueError("mask.target=polygon needs Targets.polygons; the batch has none")
            return crop_polygons(targets.polygons, matched, self.rules.outline_frame(boxes), positive, size)
        if targets.bitmaps is None:
            raise ValueError(f"mask.target={self.config.target} needs Targets.bitmaps; the batch has none")
        match self.config.target:
            case "bitmap":
                return crop_bitmaps(targets.bitmaps, matched, boxes, positive, size, True, 0.5)
            case "soft_bitmap":
                return crop_bitmaps(targets.bitmaps, matched, boxes, positive, size, False, None)
            case "sampled_bitmap":
                return cut_bitmaps(targets.bitmaps, matched, boxes, positive, size, "sampled", sizes)
            case "resized_bitmap":
                return cut_bitmaps(targets.bitmaps, matched, boxes, positive, size, "resized", sizes)
            case "truncated_bitmap":
                return cut_bitmaps(targets.bitmaps, matched, boxes, positive, size, "truncated", sizes)
            case "nearest_bitmap":
                raw = self.rules.raw(boxes)
                return cut_bitmaps(targets.bitmaps, matched, raw, positive, size, "nearest", sizes)
