"""Faster and Mask R-CNN on ResNet, with a feature pyramid (FPN) or on one map (C4)."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    AnchorConfig,
    BoxHeadConfig,
    DetectorConfig,
    InputConfig,
    MaskHeadConfig,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
)
from rcnn.models.zoo.naming import Models, named

CAFFE_INPUT = InputConfig(channel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))
C4_SIZES = ((32.0, 64.0, 128.0, 256.0, 512.0),)


def faster_rcnn_r50_fpn() -> DetectorConfig:
    """Lin et al. 2017: 2-fc head on a feature pyramid; stride in the 3x3, RGB, for torchvision's ResNet weights."""
    return DetectorConfig(name="faster_rcnn_r50_fpn")


def mask_rcnn_r50_fpn() -> DetectorConfig:
    """He et al. 2017: `faster_rcnn_r50_fpn` with a 4-conv mask head."""
    return replace(faster_rcnn_r50_fpn(), name="mask_rcnn_r50_fpn", mask=MaskHeadConfig())


def faster_rcnn_r101_fpn() -> DetectorConfig:
    """`faster_rcnn_r50_fpn` with 101 layers."""
    return replace(faster_rcnn_r50_fpn(), name="faster_rcnn_r101_fpn", backbone=ResNetConfig(depth=101))


def mask_rcnn_r101_fpn() -> DetectorConfig:
    """`mask_rcnn_r50_fpn` with 101 layers."""
    return replace(mask_rcnn_r50_fpn(), name="mask_rcnn_r101_fpn", backbone=ResNetConfig(depth=101))


def faster_rcnn_r50_c4() -> DetectorConfig:
    """Ren et al. 2015 on ResNet (He et al. 2016): one map of stride 16, res5 as the head."""
    return DetectorConfig(
        name="faster_rcnn_r50_c4",
        input=InputConfig(divisor=0),
        backbone=ResNetConfig(stages=(2, 3, 4)),
        fpn=None,
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=C4_SIZES),
            proposals=ProposalConfig(pre_nms_train=12000, pre_nms=6000, post_nms_train=2000),
        ),
        box=BoxHeadConfig(trunk="res5", pooler=PoolerConfig(size=14)),
    )


def mask_rcnn_r50_c4() -> DetectorConfig:
    """He et al. 2017, figure 4 left: masks from the same res5."""
    return replace(faster_rcnn_r50_c4(), name="mask_rcnn_r50_c4", mask=MaskHeadConfig(trunk="res5", convs=0))


def faster_rcnn_r101_c4() -> DetectorConfig:
    """`faster_rcnn_r50_c4` with 101 layers."""
    return replace(faster_rcnn_r50_c4(), name="faster_rcnn_r101_c4", backbone=ResNetConfig(depth=101, stages=(2, 3, 4)))


def mask_rcnn_r101_c4() -> DetectorConfig:
    """`mask_rcnn_r50_c4` with 101 layers."""
    return replace(mask_rcnn_r50_c4(), name="mask_rcnn_r101_c4", backbone=ResNetConfig(depth=101, stages=(2, 3, 4)))


def caffe(config: DetectorConfig) -> DetectorConfig:
    """The model on MSRA's ResNet: stride in the 1x1, BGR, means only (Detectron, most of Detectron2's zoo)."""
    if not isinstance(config.backbone, ResNetConfig):
        raise ValueError(f"{config.name} has no Caffe version; expected a model on a ResNet, e.g. mask_rcnn_r50_fpn")
    return replace(
        config,
        name=f"{config.name}_caffe",
        input=replace(CAFFE_INPUT, divisor=config.input.divisor),
        backbone=replace(config.backbone, stride_in_1x1=True),
    )


def caffe_versions(models: Models) -> Models:
    """The Caffe version of each model, by its name."""
    return {f"{name}_caffe": (lambda function=function: caffe(function())) for name, function in models.items()}


def with_depth(config: DetectorConfig, depth: int) -> DetectorConfig:
    """The model on a ResNet with 50, 101 or 152 layers."""
    if not isinstance(config.backbone, ResNetConfig) or depth not in (50, 101, 152):
        raise ValueError(f"{config.name} cannot have {depth} layers; expected a model on a ResNet with 50, 101 or 152")
    name = config.name.replace(f"_r{config.backbone.depth}_", f"_r{depth}_")
    return replace(config, name=name, backbone=replace(config.backbone, depth=depth))


TORCHVISION_STYLE = named(
    faster_rcnn_r50_fpn, mask_rcnn_r50_fpn, faster_rcnn_r101_fpn, mask_rcnn_r101_fpn,
    faster_rcnn_r50_c4, mask_rcnn_r50_c4, faster_rcnn_r101_c4, mask_rcnn_r101_c4,
)  # fmt: skip

MODELS: Models = {
    **TORCHVISION_STYLE,
    **caffe_versions(TORCHVISION_STYLE),
}
