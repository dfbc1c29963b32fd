"""Other norms, a dilated last stage and ResNeXt, as published by Detectron and Detectron2."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import AnchorConfig, DetectorConfig, FPNConfig, Norm, ProposalConfig, ResNetConfig, RPNConfig
from rcnn.models.zoo.classic import (
    C4_SIZES,
    CAFFE_INPUT,
    caffe_versions,
    faster_rcnn_r50_fpn,
    mask_rcnn_r50_fpn,
    with_depth,
)
from rcnn.models.zoo.naming import Models, named


def with_norm(
    config: DetectorConfig, norm: Norm, name: str, *, frozen_stages: int = 2, norm_after_relu: bool = False
) -> DetectorConfig:
    """The model with `norm` in the ResNet, the FPN and the heads, and a 4conv1fc box head.

    With `norm_after_relu`, the heads have ReLU before the norm, and the convolutions of the FPN a bias (tensorpack).
    """
    if not isinstance(config.backbone, ResNetConfig):
        raise ValueError(f"{config.name} has no norm to replace; expected a model on a ResNet")
    return replace(
        config,
        name=name,
        backbone=replace(config.backbone, norm=norm, frozen_stages=frozen_stages),
        fpn=FPNConfig(norm=norm, conv_bias=norm_after_relu),
        box=replace(config.box, convs=4, fcs=1, norm=norm, norm_after_relu=norm_after_relu),
        mask=None if config.mask is None else replace(config.mask, norm=norm, norm_after_relu=norm_after_relu),
    )


def faster_rcnn_r50_fpn_gn() -> DetectorConfig:
    """Wu and He 2018, "Group normalization": `faster_rcnn_r50_fpn` with group norm everywhere; BGR, means only."""
    config = with_norm(faster_rcnn_r50_fpn(), "gn", "faster_rcnn_r50_fpn_gn")
    return replace(config, input=CAFFE_INPUT)


def mask_rcnn_r50_fpn_gn() -> DetectorConfig:
    """Wu and He 2018, "Group normalization": `mask_rcnn_r50_fpn` with group norm everywhere; BGR, means only."""
    return replace(with_norm(mask_rcnn_r50_fpn(), "gn", "mask_rcnn_r50_fpn_gn"), input=CAFFE_INPUT)


def mask_rcnn_r101_fpn_gn() -> DetectorConfig:
    """`mask_rcnn_r50_fpn_gn` with 101 layers."""
    return with_depth(mask_rcnn_r50_fpn_gn(), 101)


def faster_rcnn_r50_fpn_gn_scratch() -> DetectorConfig:
    """He et al. 2019, "Rethinking ImageNet pre-training": `faster_rcnn_r50_fpn_gn` from random weights."""
    config = with_norm(faster_rcnn_r50_fpn(), "gn", "faster_rcnn_r50_fpn_gn_scratch", frozen_stages=0)
    return replace(config, input=CAFFE_INPUT)


def mask_rcnn_r50_fpn_gn_scratch() -> DetectorConfig:
    """He et al. 2019, "Rethinking ImageNet pre-training": `mask_rcnn_r50_fpn_gn` from random weights."""
    config = with_norm(mask_rcnn_r50_fpn(), "gn", "mask_rcnn_r50_fpn_gn_scratch", frozen_stages=0)
    return replace(config, input=CAFFE_INPUT)


def mask_rcnn_r101_fpn_gn_scratch() -> DetectorConfig:
    """`mask_rcnn_r50_fpn_gn_scratch` with 101 layers."""
    return with_depth(mask_rcnn_r50_fpn_gn_scratch(), 101)


def mask_rcnn_r50_fpn_syncbn() -> DetectorConfig:
    """Peng et al. 2018, "MegDet": `mask_rcnn_r50_fpn` with batch norm over all processes in backbone, FPN and heads."""
    return with_norm(mask_rcnn_r50_fpn(), "sync_bn", "mask_rcnn_r50_fpn_syncbn")


def mask_rcnn_r50_fpn_syncbn_scratch() -> DetectorConfig:
    """He et al. 2019: `mask_rcnn_r50_fpn_syncbn`, from random weights."""
    return with_norm(mask_rcnn_r50_fpn(), "sync_bn", "mask_rcnn_r50_fpn_syncbn_scratch", frozen_stages=0)


def faster_rcnn_r50_dc5() -> DetectorConfig:
    """Dai et al. 2017, "Deformable ConvNets": one map of stride 16 from a dilated res5, and a 2-fc head."""
    config = faster_rcnn_r50_fpn()
    return replace(
        config,
        name="faster_rcnn_r50_dc5",
        input=replace(config.input, divisor=0),
        backbone=ResNetConfig(res5_dilation=2),
        fpn=None,
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=C4_SIZES),
            proposals=ProposalConfig(pre_nms_train=12000, pre_nms=6000, post_nms_train=2000),
        ),
    )


def mask_rcnn_r50_dc5() -> DetectorConfig:
    """`faster_rcnn_r50_dc5` with a 4-conv mask head on the same map."""
    return replace(faster_rcnn_r50_dc5(), name="mask_rcnn_r50_dc5", mask=mask_rcnn_r50_fpn().mask)


def faster_rcnn_r101_dc5() -> DetectorConfig:
    """`faster_rcnn_r50_dc5` with 101 layers."""
    return with_depth(faster_rcnn_r50_dc5(), 101)


def mask_rcnn_r101_dc5() -> DetectorConfig:
    """`mask_rcnn_r50_dc5` with 101 layers."""
    return with_depth(mask_rcnn_r50_dc5(), 101)


def faster_rcnn_x101_32x8d_fpn() -> DetectorConfig:
    """Xie et al. 2017, "ResNeXt": 101 layers, 32 groups of 8 channels; BGR, scaled, for Detectron2's weights."""
    return replace(
        faster_rcnn_r50_fpn(),
        name="faster_rcnn_x101_32x8d_fpn",
        input=replace(CAFFE_INPUT, pixel_std=(57.375, 57.12, 58.395)),
        backbone=ResNetConfig(depth=101, groups=32, width_per_group=8),
    )


def mask_rcnn_x101_32x8d_fpn() -> DetectorConfig:
    """`faster_rcnn_x101_32x8d_fpn` with a 4-conv mask head."""
    return replace(faster_rcnn_x101_32x8d_fpn(), name="mask_rcnn_x101_32x8d_fpn", mask=mask_rcnn_r50_fpn().mask)


TORCHVISION_STYLE = named(
    faster_rcnn_r50_dc5, mask_rcnn_r50_dc5, faster_rcnn_r101_dc5, mask_rcnn_r101_dc5, mask_rcnn_r50_fpn_syncbn
)

MODELS: Models = {
    **TORCHVISION_STYLE,
    **caffe_versions(TORCHVISION_STYLE),
    **named(
        faster_rcnn_r50_fpn_gn, mask_rcnn_r50_fpn_gn, mask_rcnn_r101_fpn_gn,
        faster_rcnn_r50_fpn_gn_scratch, mask_rcnn_r50_fpn_gn_scratch, mask_rcnn_r101_fpn_gn_scratch,
        mask_rcnn_r50_fpn_syncbn_scratch, faster_rcnn_x101_32x8d_fpn, mask_rcnn_x101_32x8d_fpn,
    ),
}  # fmt: skip
