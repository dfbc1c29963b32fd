"""From a config to a detector; what cannot go together is said here."""

from __future__ import annotations

from typing import Any

from rcnn.models.backbones.compact import CompactNet
from rcnn.models.backbones.fbnet import FBNetTrunk
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.box_head import BoxHead
from rcnn.models.cascade_head import CascadeHead, CascadeMaskHead
from rcnn.models.config import BackboneConfig, CompactConfig, DetectorConfig, FBNetConfig, ResNetConfig
from rcnn.models.detector import Detector
from rcnn.models.fpn import FPN
from rcnn.models.keypoint_head import KeypointHead
from rcnn.models.mask_head import MaskHead
from rcnn.models.refusals import refuse
from rcnn.models.rpn import RPN


def build_detector(config: DetectorConfig) -> Detector:
    """A detector of `config`, its weights drawn as the papers draw them; a ValueError says what cannot go together."""
    refuse(config)
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
    common: dict[str, Any] = {
        "in_channels": channels,
        "strides": pooled,
        "num_classes": config.num_classes,
        "backbone": config.backbone,
    }
    cascade = config.cascade
    if cascade is None:
        box_head: BoxHead | CascadeHead = BoxHead(config=config.box, **common)
    else:
        box_head = CascadeHead(config=config.box, cascade=cascade, **common)
    mask_head: MaskHead | CascadeMaskHead | None = None
    if config.mask is not None:
        common["level_eps_inside"] = config.box.level_eps_inside
        if config.mask.features == "res5":
            common["in_channels"] = 2048
        if cascade is not None and cascade.mask_heads == "each":
            mask_head = CascadeMaskHead(config=config.mask, cascade=cascade, **common)
        else:
            mask_head = MaskHead(config=config.mask, **common)
    keypoint_head = None
    if config.keypoint is not None:
        keypoint_head = KeypointHead(
            in_channels=channels,
            strides=pooled,
            config=config.keypoint,
            backbone=config.backbone,
            level_eps_inside=config.box.level_eps_inside,
        )
    rpn = RPN(in_channels=channels, strides=strides, config=config.rpn)
    return Detector(
        config=config,
        backbone=backbone,
        fpn=fpn,
        rpn=rpn,
        box_head=box_head,
        mask_head=mask_head,
        keypoint_head=keypoint_head,
    )


def build_backbone(config: BackboneConfig) -> ResNet | FBNetTrunk | CompactNet:
    """The trunk of `config`: images to {"c2": ..., "c5"} or {"c4": ...}."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case FBNetConfig():
            return FBNetTrunk(config)
        case CompactConfig():
            return CompactNet(config)
