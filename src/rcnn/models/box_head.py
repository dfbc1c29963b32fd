"""Box head (Girshick 2015, figure 1): what is in each region, and where exactly.

Letters: B images, R regions, K classes, C channels, D detections.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.backbones.fbnet import box_blocks
from rcnn.models.backbones.resnet import build_stage
from rcnn.models.config import BackboneConfig, BoxHeadConfig, FBNetConfig, ResNetConfig
from rcnn.models.layers import init_linear
from rcnn.models.regions import Regions, pool_regions, sample_regions
from rcnn.ops.boxes import clip_boxes, is_nonempty
from rcnn.ops.capacity import live_prefix
from rcnn.ops.deltas import decode_deltas, encode_deltas
from rcnn.ops.losses import smooth_l1
from rcnn.ops.nms import nms
from rcnn.structures import Detections, Proposals, Targets


class FullyConnected(nn.Module):
    """Regions (N, C, s, s) -> (N, width) by two fully connected layers (FPN's head)."""

    def __init__(self, *, in_channels: int, roi_size: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * roi_size**2, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.channels = width

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))


class Res5(nn.Module):
    """Regions (N, 1024, 14, 14) -> (N, 2048, 7, 7) by a ResNet's last stage (He et al. 2016, appendix A)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.res5 = build_stage(5, config)
        self.channels = 2048

    def forward(self, x: Tensor) -> Tensor:
        return self.res5(x)


class BoxHead(nn.Module):
    """Proposals -> detections: class scores, background last, and boxes of each class."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: BoxHeadConfig,
        backbone: BackboneConfig,
    ) -> None:
        super().__init__()
        self.config, self.num_classes, self.strides = config, num_classes, strides
        if config.features == "res5":
            if not isinstance(backbone, ResNetConfig):
                raise ValueError("box.features=res5 needs a ResNet backbone; this one is another: use fc")
            self.features: nn.Module = Res5(backbone)
        elif config.features == "fbnet":
            self.features = box_blocks(backbone.width if isinstance(backbone, FBNetConfig) else 1.0)
        else:
            self.features = FullyConnected(in_channels=in_channels, roi_size=config.roi_size, width=config.fc_width)
        self.scores = nn.Linear(self.features.channels, num_classes + 1)
        self.deltas = nn.Linear(self.features.channels, num_classes * 4)
        init_linear(self.scores, std=0.01)
        init_linear(self.deltas, std=0.001)

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The sampled regions (the mask head trains on the objects among them) and the two losses of Fast R-CNN."""
        config = self.config
        regions = sample_regions(proposals, targets, num_classes=self.num_classes, config=config, seed=seed)
        scores, deltas, maps = self.classify(features, regions.boxes, regions.valid)  # (B, R, K + 1), (B, R, K, 4)
        count = regions.valid.sum().clamp(min=1)
        classes = F.cross_entropy(scores.flatten(0, 1), regions.labels.flatten(), reduction="none")
        objects = regions.objects(max(1, int(config.batch_size * config.positive_fraction)))
        rows = objects.boxes.shape[1]
        own = objects.labels.clamp(max=self.num_classes - 1)[..., None, None].expand(-1, -1, 1, 4)
        target = targets.boxes.gather(1, objects.matched[..., None].expand(-1, -1, 4))
        # a region that is no object may be empty, and an empty box has no logarithm: a unit square stands in
        square = torch.cat([objects.boxes[..., :2], objects.boxes[..., :2] + 1], -1)
        source = torch.where(objects.positive[..., None], objects.boxes, square)
        target = torch.where(objects.positive[..., None], target, square)
        wanted = encode_deltas(target, source, config.delta_weights)
        moved = smooth_l1(deltas[:, :rows].gather(2, own)[:, :, 0], wanted, config.smooth_l1_beta)
        return replace(regions, features=maps), {
            "box_class": (classes * regions.valid.flatten()).sum() / count,
            "box_delta": (moved * objects.positive[..., None]).sum() / count,
        }

    def predict(self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """The best detections (B, D) over all classes of images of `sizes` (B, 2), boxes within them."""
        config = self.config
        live = live_prefix(proposals.valid)
        regions, valid = proposals.boxes[:, :live], proposals.valid[:, :live]
        logits, deltas, _ = self.classify(features, regions, valid)
        scores = logits.softmax(-1)[..., :-1]  # (B, R, K)
        boxes = decode_deltas(deltas, regions[:, :, None], config.delta_weights)  # (B, R, K, 4)
        boxes = clip_boxes(boxes.flatten(1, 2), sizes)  # (B, R*K, 4)
        valid = valid[..., None] & (scores > config.score_threshold) & scores.isfinite()
        valid = valid.flatten(1) & is_nonempty(boxes, config.min_size) & boxes.isfinite().all(-1)
        labels = torch.arange(self.num_classes, device=boxes.device).repeat(len(boxes), live)
        scores = scores.flatten(1)
        kept, valid = nms(boxes, scores, labels, valid, config.nms_iou, config.max_detections)
        return Detections(
            boxes=boxes.gather(1, kept[..., None].expand(-1, -1, 4)) * valid[..., None],
            scores=scores.gather(1, kept) * valid,
            labels=labels.gather(1, kept) * valid,
            valid=valid,
        )

    def classify(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits (B, R, K+1), deltas (B, R, K, 4), both float32, and with res5 its maps (B, R, 2048, 7, 7)."""
        pooled = pool_regions(features, self.strides, boxes, valid, self.config, self.config.level_eps_inside)
        x = self.features(pooled.flatten(0, 1))
        maps = x.unflatten(0, boxes.shape[:2]) if x.ndim == 4 else None
        if maps is not None:
            x = x.mean((2, 3))
        scores = self.scores(x).float().unflatten(0, boxes.shape[:2])
        deltas = self.deltas(x).float().view(*boxes.shape[:2], self.num_classes, 4)
        return scores, deltas, maps
