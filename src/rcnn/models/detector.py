"""The R-CNN family, one image batch followed from pixels to detections. Read this file first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnn.models.backbones.compact import CompactNet
from rcnn.models.backbones.fbnet import FBNetTrunk
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.box_head import BoxHead
from rcnn.models.config import CompactConfig, DetectorConfig, FBNetConfig, ResNetConfig
from rcnn.models.fpn import FPN
from rcnn.models.mask_head import MaskHead
from rcnn.models.rpn import RPN
from rcnn.structures import Detections, ImageBatch, Targets


class Detector(nn.Module):
    """Image -> features -> proposals -> detections (Ren et al. 2015, figure 2; masks: He et al. 2017, figure 1)."""

    def __init__(
        self,
        *,
        config: DetectorConfig,
        backbone: nn.Module,
        fpn: FPN | None,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: MaskHead | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.fpn, self.rpn, self.box_head, self.mask_head = backbone, fpn, rpn, box_head, mask_head
        self.register_buffer("pixel_mean", torch.tensor(config.input.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.input.pixel_std)[:, None, None], persistent=False)

    def losses(self, images: ImageBatch, targets: Targets, seed: Tensor) -> dict[str, Tensor]:
        """The losses to add up and minimise; `seed` () int64 draws which anchors and regions they are taken from."""
        features = self.features(images)  # {"p2": (B, C, H/4, W/4), "p3": ...}
        proposals, losses = self.rpn.losses(features, images.sizes, targets, seed)
        regions, box_losses = self.box_head.losses(features, proposals, targets, seed)
        losses |= box_losses
        if self.mask_head is not None:
            box = self.config.box
            most = max(1, int(box.batch_size * box.positive_fraction))
            losses |= self.mask_head.losses(features, regions, targets, most)
        return losses

    forward = losses  # what DistributedDataParallel calls

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Detections:
        """Detections (B, D) in pixels of the network input, best first."""
        features = self.features(images)
        proposals = self.rpn.predict(features, images.sizes)  # (B, P, 4), with `valid` (B, P)
        detections = self.box_head.predict(features, proposals, images.sizes)
        if self.mask_head is not None:
            shared = self.box_head.features if self.mask_head.config.features == "res5" else None
            detections = self.mask_head.predict(features, detections, shared)
        return detections

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """Feature maps of the normalised images: {"p2": (B, C, H/4, W/4), ..., "p6"}, or {"c4": ...} without FPN."""
        features = self.backbone(self.normalize(images))
        return features if self.fpn is None else self.fpn(features)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Pixels (B, 3, H, W) less mean over standard deviation, in the weights' channel order; padding is 0."""
        pixels = images.pixels.float()
        if self.config.input.channel_order == "bgr":
            pixels = pixels.flip(1)
        height, width = pixels.shape[-2:]
        rows = torch.arange(height, device=pixels.device) < images.sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=pixels.device) < images.sizes[:, 1:]  # (B, W)
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, H, W)
        pixels = (pixels - self.pixel_mean) / self.pixel_std * inside
        weight = next(self.backbone.parameters())
        innermost = weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if innermost else torch.preserve_format
        return pixels.to(weight.dtype, memory_format=layout)


def build_detector(config: DetectorConfig) -> Detector:
    """A detector of `config`, its weights drawn as the papers draw them; a ValueError says what cannot go together."""
    backbone = build_backbone(config.backbone)
    if config.fpn is not None:
        fpn = FPN(in_channels=backbone.channels, config=config.fpn)
        strides = {f"p{number}": 2**number for number in [*fpn.numbers, fpn.numbers[-1] + 1]}
        pooled = {name: stride for name, stride in strides.items() if name != f"p{fpn.numbers[-1] + 1}"}
        channels = fpn.channels
    else:
        fpn = None
        last = list(backbone.channels)[-1]
        strides = pooled = {last: backbone.strides[last]}
        channels = backbone.channels[last]
    box_head = BoxHead(
        in_channels=channels,
        strides=pooled,
        num_classes=config.num_classes,
        config=config.box,
        backbone=config.backbone,
    )
    mask_head = None
    if config.mask is not None:
        if config.mask.features == "res5" and config.box.features != "res5":
            raise ValueError("mask.features=res5 shares the box head's res5; box.features is " + config.box.features)
        mask_head = MaskHead(
            in_channels=2048 if config.mask.features == "res5" else channels,
            strides=pooled,
            num_classes=config.num_classes,
            config=config.mask,
            backbone=config.backbone,
            level_eps_inside=config.box.level_eps_inside,
        )
    rpn = RPN(in_channels=channels, strides=strides, config=config.rpn)
    return Detector(config=config, backbone=backbone, fpn=fpn, rpn=rpn, box_head=box_head, mask_head=mask_head)


def build_backbone(config: ResNetConfig | FBNetConfig | CompactConfig) -> ResNet | FBNetTrunk | CompactNet:
    """The trunk of `config`: images to {"c2": ..., "c5"} or {"c4": ...}."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case FBNetConfig():
            return FBNetTrunk(config)
        case CompactConfig():
            return CompactNet(config)
