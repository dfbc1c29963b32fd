"""From a config to a detector; what cannot go together is said here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.backbones.compact import CompactNet
from rcnn.models.backbones.fbnet import FBNetTrunk
from rcnn.models.backbones.mobilenet import MobileNet
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.backbones.timm import TimmNet, pixel_statistics
from rcnn.models.backbones.vit import ViT
from rcnn.models.box_rules import BoxRules
from rcnn.models.config import (
    BackboneConfig,
    CompactConfig,
    DetectorConfig,
    FBNetConfig,
    MobileNetConfig,
    ResNetConfig,
    TimmConfig,
    ViTConfig,
)
from rcnn.models.detector import Detector
from rcnn.models.fpn import FPN
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.cascade import CascadeHead, CascadeMaskHead
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.keypoint import KeypointHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.rpn import RPN
from rcnn.models.validate import refuse


def build_detector(config: DetectorConfig) -> Detector:
    """A detector of `config`, its weights drawn as the papers draw them; a ValueError says what cannot go together."""
    refuse(config)
    require_pixels(config)
    backbone = build_backbone(config.backbone)
    fpn = build_pyramid(backbone, config)
    strides, pooled, channels = levels(backbone, fpn)
    if config.fcis is not None:  # the RPN reads c4, the second stage c5
        if not {"c4", "c5"} <= set(backbone.channels):
            raise ValueError(
                f"FCIS reads c4 and c5, and this backbone gives {list(backbone.channels)}: use a ResNet of stages "
                "[2, 3, 4, 5], or another that has both"
            )
        strides, channels = {"c4": backbone.strides["c4"]}, backbone.channels["c4"]
    common: dict[str, Any] = {
        "in_channels": channels,
        "strides": pooled,
        "num_classes": config.num_classes,
        "backbone": config.backbone,
        "level_eps_inside": config.legacy.level_eps_inside,
    }
    cascade, rules = config.cascade, BoxRules(config.legacy.boxes)
    box_head: BoxHead | CascadeHead | FCISHead | None = None
    if config.proposals_only:
        pass
    elif config.fcis is not None:
        box_head = FCISHead(
            in_channels=backbone.channels["c5"],
            stride=backbone.strides["c5"],
            num_classes=config.num_classes,
            config=config.fcis,
            rules=rules,
        )
    elif cascade is None:
        box_head = BoxHead(config=config.box, rules=rules, drop_subpixel=config.legacy.drop_subpixel, **common)
    else:
        box_head = CascadeHead(config=config.box, cascade=cascade, **common)
    mask_head: MaskHead | CascadeMaskHead | None = None
    if config.mask is not None:
        if config.mask.trunk == "res5":
            common["in_channels"] = 2048
        if cascade is not None and cascade.mask_heads == "each":
            mask_head = CascadeMaskHead(config=config.mask, cascade=cascade, **common)
        else:
            mask_head = MaskHead(config=config.mask, rules=rules, **common)
    keypoint_head = None
    if config.keypoint is not None:
        keypoint_head = KeypointHead(
            in_channels=channels,
            strides=pooled,
            config=config.keypoint,
            backbone=config.backbone,
            level_eps_inside=config.legacy.level_eps_inside,
            rules=rules,
        )
    rpn = RPN(in_channels=channels, strides=strides, config=config.rpn, rules=rules)
    return Detector(
        config=settled(config),
        backbone=backbone,
        fpn=fpn,
        rpn=rpn,
        box_head=box_head,
        mask_head=mask_head,
        keypoint_head=keypoint_head,
    )


def build_backbone(config: BackboneConfig) -> Backbone:
    """The trunk of `config`: images to {"c2": ..., "c5"} or {"c4": ...}, or to {"p2": ..., "p6"} from a plain ViT."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case FBNetConfig():
            return FBNetTrunk(config)
        case CompactConfig():
            return CompactNet(config)
        case MobileNetConfig():
            return MobileNet(config)
        case TimmConfig():
            return TimmNet(config)
        case ViTConfig():
            return ViT(config)


def settled(config: DetectorConfig) -> DetectorConfig:
    """`config` without the wish for weights from elsewhere, which the detector now has: a checkpoint brings its own."""
    backbone = config.backbone
    if not isinstance(backbone, TimmConfig | ViTConfig) or not backbone.pretrained:
        return config
    return replace(config, backbone=replace(backbone, pretrained=False))


def require_pixels(config: DetectorConfig) -> None:
    """A ValueError unless pixels come to timm's trained weights as these were trained: nothing else would show it."""
    backbone, given = config.backbone, config.input
    if not isinstance(backbone, TimmConfig | ViTConfig) or not backbone.pretrained:
        return
    statistics = pixel_statistics(backbone)
    if statistics is None:
        raise ValueError(f"timm has no weights for {backbone.name}: set backbone.pretrained to false, or name others")
    for name, value, wanted in zip(("mean", "std"), (given.pixel_mean, given.pixel_std), statistics, strict=True):
        if given.channel_order != "rgb" or max(abs(a - b) for a, b in zip(value, wanted, strict=True)) > 0.1:
            raise ValueError(
                f"timm's weights of {backbone.name} want RGB with input.pixel_{name}={[round(v, 3) for v in wanted]}; "
                f"the input is {given.channel_order} with {list(value)}"
            )


def build_pyramid(backbone: Backbone, config: DetectorConfig) -> FPN | None:
    """The pyramid over `backbone`, if `config` has one."""
    if config.fpn is None:
        return None
    if isinstance(backbone, ViT):
        raise ValueError("a plain ViT makes its own pyramid (Li et al. 2022): set fpn to None")
    if isinstance(config.backbone, ResNetConfig) and backbone.strides.get("c5") == backbone.strides.get("c4"):
        raise ValueError(
            "res5 keeps the stride of res4, and each level of a pyramid is half the one before: set fpn to None, or "
            "backbone.res5_dilation to 1 and backbone.res5_stride to 2"
        )
    return FPN(in_channels=backbone.channels, config=config.fpn)


def levels(backbone: Backbone, fpn: FPN | None) -> tuple[dict[str, int], dict[str, int], int]:
    """Strides of the maps that the RPN reads, of those that regions are cut from, and the channels of each."""
    if fpn is not None:
        strides = {f"p{number}": backbone.strides[f"c{number}"] for number in fpn.numbers}
        pooled = {}
        for name, stride in strides.items():
            if stride not in pooled.values():  # of two maps of one stride torchvision's MobileNet reads the first
                pooled[name] = stride
        last = fpn.numbers[-1]
        return strides | {f"p{last + 1}": 2 * strides[f"p{last}"]}, pooled, fpn.channels
    names = list(backbone.channels)
    last = names[-1]
    if last.startswith("p"):  # the coarsest is for the largest anchors only
        return backbone.strides, {name: backbone.strides[name] for name in names[:-1]}, backbone.channels[last]
    strides = {last: backbone.strides[last]}
    return strides, strides, backbone.channels[last]
