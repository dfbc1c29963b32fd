"""DetectorConfig -> Detector. This file chooses the parts; each part is built from its own settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rcnn.arguments import wrong_type
from rcnn.models.anchors import AnchorGenerator
from rcnn.models.backbones.backbone import Backbone
from rcnn.models.backbones.compact import CompactNet
from rcnn.models.backbones.fbnet import FBNetTrunk, keypoint_logits, mask_blocks, rpn_blocks, width_of
from rcnn.models.backbones.mobilenet import MobileNet
from rcnn.models.backbones.mobilenet_v1 import MobileNetV1
from rcnn.models.backbones.own import checked_backbone
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.backbones.timm import TimmNet, pixel_statistics
from rcnn.models.backbones.vgg import VGG16
from rcnn.models.backbones.vit import ViT
from rcnn.models.box_rules import BoxRules
from rcnn.models.config import (
    BackboneConfig,
    BoxHeadConfig,
    CompactConfig,
    DetectorConfig,
    FBNetConfig,
    KeypointHeadConfig,
    LegacyConfig,
    LegacyFCISConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    MobileNetConfig,
    MobileNetV1Config,
    OwnBackboneConfig,
    PoolerConfig,
    ResNetConfig,
    RPNConfig,
    TimmConfig,
    VGGConfig,
    ViTConfig,
)
from rcnn.models.detector import Detector, Heads
from rcnn.models.fpn import FPN
from rcnn.models.heads.box import BoxHead, input_sizes
from rcnn.models.heads.cascade import CascadeHead, CascadeMaskHead
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.keypoint import KeypointHead, UpsampledDeconv, require_consistent_keypoints
from rcnn.models.heads.mask import MaskHead, mask_deconv
from rcnn.models.heads.mask_targets import BitmapTargets, PolygonTargets
from rcnn.models.heads.trunks import Convs, Res5, Trunk, build_box_trunk
from rcnn.models.legacy.anchors import DetectronAnchors, TorchvisionAnchors
from rcnn.models.legacy.boxes import build_box_rules
from rcnn.models.legacy.fcis import LegacyFCISHead
from rcnn.models.legacy.file_boxes import SubpixelBoxHead, clips_to_file, scaled_file_sizes
from rcnn.models.legacy.mask_initializers import initialize_last_layers
from rcnn.models.legacy.mask_targets import CutBitmapTargets
from rcnn.models.legacy.pooling import AffinePooler, CropPooler, ImageAffinePooler, NormalizedPooler, SizedDetector
from rcnn.models.legacy.rpn import LegacyRPN, ObjectLogitRPN, SoftmaxRPN
from rcnn.models.own import Factory, OwnModule, checked_head, use_modules
from rcnn.models.pooler import RegionPooler
from rcnn.models.rpn import RPN, rpn_convs
from rcnn.models.validate import validate


def build_detector(
    config: DetectorConfig,
    *,
    backbone: OwnModule | None = None,
    box_head: OwnModule | None = None,
    mask_head: OwnModule | None = None,
    keypoint_head: OwnModule | None = None,
) -> Detector:
    """A detector of `config` with initial weights as in the papers.

    The other arguments replace parts by the user's own (docs/models/own_modules.md): a module, or the function or class
    that makes it. The detector's config stores the name of that function or class, so that a checkpoint can be loaded
    again. Raises ValueError for settings that contradict each other, and for a module that does not fit.
    """
    if not isinstance(config, DetectorConfig):
        raise wrong_type(config, "the config", "a DetectorConfig, e.g. rcnn.model_config('mask_rcnn_r50_fpn')")
    given = {"backbone": backbone, "box_head": box_head, "mask_head": mask_head, "keypoint_head": keypoint_head}
    config, factories = use_modules(config, given)
    validate(config)
    require_pixels(config)
    trunk = build_backbone(config.backbone, factories.get("backbone"))
    fpn = build_pyramid(trunk, config)
    maps = feature_maps(trunk, fpn, config)
    rules = build_box_rules(config.legacy.boxes)
    # before the RPN: the order of construction decides which random weights a seed gives
    heads = build_heads(config, trunk, maps, rules, factories)
    parts = (config.box, config.mask, config.keypoint)
    needs_sizes = any(part is not None and part.pooler.kind == "image_affine" for part in parts)
    detector_class = SizedDetector if needs_sizes else Detector
    return detector_class(
        config=without_pretrained(config),
        backbone=trunk,
        fpn=fpn,
        rpn=build_rpn(config.rpn, maps, rules),
        heads=heads,
        rules=rules,
    )


def build_rpn(config: RPNConfig, maps: FeatureMaps, rules: BoxRules) -> RPN:
    """The region proposal network, or its variant of an old system if `config.legacy` is not the default."""
    require_consistent(config, list(maps.rpn_strides))
    generators = {"plain": AnchorGenerator, "torchvision": TorchvisionAnchors, "detectron": DetectronAnchors}
    anchors = generators[config.legacy.anchors](config=config.anchors, strides=maps.rpn_strides, rules=rules)
    networks = {"sigmoid": LegacyRPN, "softmax": SoftmaxRPN, "object_logit": ObjectLogitRPN}
    plain = replace(config.legacy, anchors="plain") == LegacyRPNConfig()
    network = RPN if plain else networks[config.legacy.objectness]
    if config.head == "fbnet":
        convs, width = rpn_blocks(maps.channels), maps.channels
    else:
        convs, width = rpn_convs(maps.channels, config)
    return network(convs=convs, width=width, anchors=anchors, config=config, rules=rules)


def build_heads(
    config: DetectorConfig, backbone: Backbone, maps: FeatureMaps, rules: BoxRules, factories: dict[str, Factory]
) -> Heads:
    """The second stage; `factories` makes the user's heads."""
    if config.proposals_only:
        return Heads()
    if config.fcis is not None:
        return Heads(box=build_fcis_head(config, backbone, rules))
    made = {name: checked_head(factory, config, maps) for name, factory in factories.items() if name != "backbone"}
    box = made["box_head"] if "box_head" in made else build_box_head(config, maps, rules)
    box_res5 = box.trunk if isinstance(box, BoxHead) and isinstance(box.trunk, Res5) else None
    mask, keypoint = made.get("mask_head"), made.get("keypoint_head")
    if mask is None and config.mask is not None:
        mask = build_mask_head(config, config.mask, maps, rules, box_res5)
    if keypoint is None and config.keypoint is not None:
        keypoint = build_keypoint_head(config, config.keypoint, maps, rules)
    return Heads(box=box, mask=mask, keypoint=keypoint)


def build_pooler(config: PoolerConfig, legacy: LegacyConfig, maps: FeatureMaps, rules: BoxRules) -> RegionPooler:
    """How regions are pooled from the maps. Raises ValueError for image_affine and several maps."""
    if config.kind == "image_affine" and len(maps.pooled_strides) > 1:
        raise ValueError(
            f"pooler.kind=image_affine is defined for one map, but regions are pooled from several "
            f"({', '.join(maps.pooled_strides)}); set pooler.kind=affine"
        )
    poolers: dict[str, type[RegionPooler]] = {
        "crop_resize": CropPooler,
        "affine": AffinePooler,
        "normalized": NormalizedPooler,
        "image_affine": ImageAffinePooler,
    }
    pooler = poolers.get(config.kind, RegionPooler)
    return pooler(config=config, strides=maps.pooled_strides, rules=rules, level_eps_inside=legacy.level_eps_inside)


def build_box_head(config: DetectorConfig, maps: FeatureMaps, rules: BoxRules) -> BoxHead | CascadeHead:
    """The box head, or a cascade of several."""
    head = SubpixelBoxHead if config.legacy.drop_subpixel else BoxHead

    def stage(settings: BoxHeadConfig) -> BoxHead:
        return head(
            trunk=build_box_trunk(settings, maps.channels, config.backbone),
            pooler=build_pooler(settings.pooler, config.legacy, maps, rules),
            num_classes=config.num_classes,
            config=settings,
            rules=rules,
            clip_sizes=scaled_file_sizes if clips_to_file(config.input) else input_sizes,
        )

    box, cascade = config.box, config.cascade
    if cascade is None:
        return stage(box)
    stages = [
        stage(replace(box, sampling=replace(box.sampling, positive_iou=iou), delta_weights=weights))
        for iou, weights in zip(cascade.ious, cascade.delta_weights, strict=True)
    ]
    return CascadeHead(stages=stages, config=cascade)


def build_mask_head(
    config: DetectorConfig, mask: MaskHeadConfig, maps: FeatureMaps, rules: BoxRules, box_res5: Res5 | None
) -> MaskHead | CascadeMaskHead:
    """The mask head, or one per stage of a cascade; with C4 it uses `box_res5`."""
    classes = {"polygon": PolygonTargets, "bitmap": BitmapTargets, "soft_bitmap": BitmapTargets}
    targets = classes.get(mask.target, CutBitmapTargets)(mask.target, rules)

    def stage() -> MaskHead:
        trunk: Trunk | None = None
        if mask.trunk == "fbnet":
            trunk = mask_blocks(width_of(config.backbone))
        elif mask.trunk == "convs":
            trunk = Convs(
                in_channels=maps.channels,
                count=mask.convs,
                width=mask.width,
                norm=mask.norm,
                norm_after_relu=mask.norm_after_relu,
            )
        before = box_res5 if trunk is None else trunk
        enlarges = before is None or mask.trunk == "fbnet"  # D2Go's blocks enlarge the map themselves
        head = MaskHead(
            trunk=trunk,
            box_res5=box_res5 if mask.trunk == "res5" else None,
            deconv=None if enlarges else mask_deconv(before.channels, mask.width),
            pooler=build_pooler(mask.pooler, config.legacy, maps, rules),
            num_classes=config.num_classes,
            config=mask,
            targets=targets,
            rules=rules,
        )
        if mask.initializer != "default":
            initialize_last_layers(head, he=mask.initializer == "he")
        return head

    if config.cascade is not None and config.cascade.mask_heads == "each":
        return CascadeMaskHead(stages=[stage() for _ in config.cascade.ious], config=config.cascade)
    return stage()


def build_keypoint_head(
    config: DetectorConfig, keypoint: KeypointHeadConfig, maps: FeatureMaps, rules: BoxRules
) -> KeypointHead:
    """The keypoint head."""
    require_consistent_keypoints(keypoint)
    if keypoint.trunk == "fbnet":
        width = width_of(config.backbone)
        trunk, logits = mask_blocks(width), keypoint_logits(width, len(keypoint.names))
    else:
        trunk = Convs(in_channels=maps.channels, count=keypoint.convs, width=keypoint.width)
        logits = UpsampledDeconv(trunk.channels, len(keypoint.names))
    return KeypointHead(
        trunk=trunk,
        logits=logits,
        pooler=build_pooler(keypoint.pooler, config.legacy, maps, rules),
        config=keypoint,
        positives_per_image=config.box.sampling.batch_size * config.box.sampling.positive_fraction,
        rules=rules,
    )


def build_fcis_head(config: DetectorConfig, backbone: Backbone, rules: BoxRules) -> FCISHead:
    """FCIS's second stage, which reads c5."""
    assert config.fcis is not None
    head = FCISHead if config.fcis.legacy == LegacyFCISConfig() else LegacyFCISHead
    return head(
        in_channels=backbone.channels["c5"],
        stride=backbone.strides["c5"],
        num_classes=config.num_classes,
        config=config.fcis,
        rules=rules,
    )


def build_backbone(config: BackboneConfig, factory: Factory | None = None) -> Backbone:
    """The backbone of `config`: images -> {"c2": ..., "c5"}, {"c4": ...}, or {"p2": ..., "p6"} for a plain ViT."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case FBNetConfig():
            return FBNetTrunk(config)
        case CompactConfig():
            return CompactNet(config)
        case MobileNetConfig():
            return MobileNet(config)
        case MobileNetV1Config():
            return MobileNetV1(config)
        case VGGConfig():
            return VGG16(config)
        case TimmConfig():
            return TimmNet(config)
        case ViTConfig():
            return ViT(config)
        case OwnBackboneConfig():
            assert factory is not None
            return checked_backbone(factory.build(), factory.path)


def without_pretrained(config: DetectorConfig) -> DetectorConfig:
    """`config` with pretrained=False: the detector has the weights now, and a checkpoint contains its own."""
    backbone = config.backbone
    if not isinstance(backbone, TimmConfig | ViTConfig) or not backbone.pretrained:
        return config
    return replace(config, backbone=replace(backbone, pretrained=False))


def require_pixels(config: DetectorConfig) -> None:
    """Raise ValueError if `config.input` does not normalize pixels as timm's pretrained weights need it."""
    backbone, given = config.backbone, config.input
    if not isinstance(backbone, TimmConfig | ViTConfig) or not backbone.pretrained:
        return
    statistics = pixel_statistics(backbone)
    if statistics is None:
        raise ValueError(
            f"timm has no weights for {backbone.name}; set backbone.pretrained=false, or choose another backbone.name"
        )
    for name, value, expected in zip(("mean", "std"), (given.pixel_mean, given.pixel_std), statistics, strict=True):
        if given.channel_order != "rgb" or max(abs(a - b) for a, b in zip(value, expected, strict=True)) > 0.1:
            raise ValueError(
                f"timm's weights of {backbone.name} were trained on RGB with input.pixel_{name}="
                f"{[round(v, 3) for v in expected]}; got input.channel_order={given.channel_order} with {list(value)}. "
                "Set these, or backbone.pretrained=false"
            )


def build_pyramid(backbone: Backbone, config: DetectorConfig) -> FPN | None:
    """The FPN of `backbone`, if `config` has one."""
    if config.fpn is None:
        return None
    if isinstance(backbone, ViT):
        raise ValueError("a plain ViT builds its own pyramid (Li et al. 2022); set fpn=null")
    if any(name.startswith("p") for name in backbone.channels):
        raise ValueError(f"this backbone is a pyramid itself ({', '.join(backbone.channels)}); set fpn=null")
    if isinstance(config.backbone, ResNetConfig) and backbone.strides.get("c5") == backbone.strides.get("c4"):
        raise ValueError(
            "res5 has the stride of res4, but each level of an FPN must have twice the stride of the one before; set "
            "fpn=null, or backbone.res5_dilation=1 and backbone.res5_stride=2"
        )
    return FPN(in_channels=backbone.channels, config=config.fpn)


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """The maps that the RPN and the heads read."""

    rpn_strides: dict[str, int]  # pixels per cell, of the maps that the RPN reads
    pooled_strides: dict[str, int]  # ... of the maps that regions are pooled from
    channels: int  # of each map


def feature_maps(backbone: Backbone, fpn: FPN | None, config: DetectorConfig) -> FeatureMaps:
    """The maps of a backbone and its pyramid."""
    if config.fcis is not None:
        if not {"c4", "c5"} <= set(backbone.channels):
            raise ValueError(
                f"FCIS reads c4 and c5, but this backbone gives {list(backbone.channels)}; use a ResNet with stages "
                "[2, 3, 4, 5], or another backbone that has both"
            )
        return FeatureMaps(
            rpn_strides={"c4": backbone.strides["c4"]}, pooled_strides={}, channels=backbone.channels["c4"]
        )
    if fpn is not None:
        strides = {f"p{number}": backbone.strides[f"c{number}"] for number in fpn.numbers}
        pooled: dict[str, int] = {}
        for name, stride in strides.items():
            if stride not in pooled.values():  # torchvision's MobileNet: two maps of one stride; the first is used
                pooled[name] = stride
        levels = [int(name[1:]) for name in pooled]
        if levels != list(range(levels[0], levels[0] + len(levels))):
            raise ValueError(
                f"strides of the backbone are {backbone.strides}; expected maps with consecutive numbers, each "
                "with a larger stride than the one before (only the last ones may share one): the FPN's levels are "
                "chosen by number"
            )
        last = fpn.numbers[-1]
        strides |= {f"p{last + 1}": 2 * strides[f"p{last}"]}
        return FeatureMaps(rpn_strides=strides, pooled_strides=pooled, channels=fpn.channels)
    names = list(backbone.channels)
    last_name = names[-1]
    if last_name.startswith("p"):  # the coarsest map is for the largest anchors only
        pooled = {name: backbone.strides[name] for name in names[:-1]}
        return FeatureMaps(rpn_strides=backbone.strides, pooled_strides=pooled, channels=backbone.channels[last_name])
    strides = {last_name: backbone.strides[last_name]}
    return FeatureMaps(rpn_strides=strides, pooled_strides=strides, channels=backbone.channels[last_name])


def require_consistent(config: RPNConfig, levels: list[str]) -> None:
    """Raise ValueError if settings of the RPN contradict each other, or do not fit the `levels` of the backbone."""
    sizes = config.anchors.sizes
    if len(sizes) != len(levels):
        raise ValueError(f"rpn.anchors.sizes has {len(sizes)} levels; expected {len(levels)}, one for each of {levels}")
    if len({len(level) for level in sizes}) > 1:
        raise ValueError(
            f"rpn.anchors.sizes is {sizes}; expected the same number of sizes on each level, since they share layers"
        )
    for name, unused in (("width", 0), ("convs", 1)):
        value = getattr(config, name)
        if config.head == "fbnet" and value != unused:
            raise ValueError(f"rpn.{name}={value} has no effect with rpn.head=fbnet; set rpn.{name}={unused}")
    if config.legacy.anchors == "detectron" and config.anchors.offset:
        raise ValueError("rpn.legacy.anchors=detectron sets the centres itself; set rpn.anchors.offset=0")
