"""torchvision's newer detectors, with its own details: version 2 of the ResNet-50 pyramids, and MobileNetV3."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    BoxHeadConfig,
    DetectorConfig,
    FPNConfig,
    InputConfig,
    LegacyConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    MobileNetConfig,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SelectionConfig,
)
from rcnn.models.zoo.naming import Models, named

# anchors in whole pixels, losses divided by the number sampled, RoIAlign not aligned and with 2x2 samples per bin
RPN = RPNConfig(
    smooth_l1_beta=1 / 9,
    legacy=LegacyRPNConfig(anchors="torchvision", normalizer="sampled"),
    proposals=ProposalConfig(post_nms_train=2000, min_size=1e-3),
)
BOX = BoxHeadConfig(
    smooth_l1_beta=1 / 9,
    pooler=PoolerConfig(size=7, sampling_ratio=2, aligned=False),
    selection=SelectionConfig(min_size=1e-2),
)
LEGACY = LegacyConfig(level_eps_inside=False)
MASK = MaskHeadConfig(target="soft_bitmap", pooler=PoolerConfig(size=14, sampling_ratio=2, aligned=False))


def faster_rcnn_r50_fpn_v2() -> DetectorConfig:
    """Li et al. 2021, "Benchmarking detection transfer learning": batch norm everywhere, 2-conv RPN, 4conv1fc head."""
    return DetectorConfig(
        name="faster_rcnn_r50_fpn_v2",
        input=InputConfig(resize="bilinear"),
        backbone=ResNetConfig(norm="bn"),
        fpn=FPNConfig(norm="bn"),
        rpn=replace(RPN, convs=2),
        box=replace(BOX, convs=4, fcs=1, norm="bn"),
        legacy=LEGACY,
    )


def mask_rcnn_r50_fpn_v2() -> DetectorConfig:
    """Li et al. 2021, "Benchmarking detection transfer learning": `faster_rcnn_r50_fpn_v2` and a mask head."""
    return replace(faster_rcnn_r50_fpn_v2(), name="mask_rcnn_r50_fpn_v2", mask=replace(MASK, norm="bn"))


def faster_rcnn_mobilenet_v3_large_fpn() -> DetectorConfig:
    """Howard et al. 2019, "MobileNetV3": an FPN on two maps of stride 32, and p6."""
    return DetectorConfig(
        name="faster_rcnn_mobilenet_v3_large_fpn",
        input=InputConfig(resize="bilinear"),
        backbone=MobileNetConfig(frozen_stages=3),
        rpn=replace(
            RPN,
            anchors=replace(RPN.anchors, sizes=((32.0, 64.0, 128.0, 256.0, 512.0),) * 3),
            proposals=replace(RPN.proposals, score_threshold=0.05),
        ),
        box=BOX,
        legacy=LEGACY,
    )


def faster_rcnn_mobilenet_v3_large_320_fpn() -> DetectorConfig:
    """`faster_rcnn_mobilenet_v3_large_fpn` on images of 320 pixels, with 150 proposals."""
    config = faster_rcnn_mobilenet_v3_large_fpn()
    return replace(
        config,
        name="faster_rcnn_mobilenet_v3_large_320_fpn",
        input=replace(config.input, min_size=320, max_size=640),
        rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, pre_nms=150, post_nms=150)),
    )


MODELS: Models = named(
    faster_rcnn_r50_fpn_v2, mask_rcnn_r50_fpn_v2,
    faster_rcnn_mobilenet_v3_large_fpn, faster_rcnn_mobilenet_v3_large_320_fpn,
)  # fmt: skip
