"""D2Go's mobile detectors (FBNetV3A to stride 16, light heads)."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    BOX_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    DetectorConfig,
    FBNetConfig,
    MaskHeadConfig,
    PoolerConfig,
    ProposalConfig,
    RPNConfig,
)
from rcnn.models.zoo.classic import CAFFE_INPUT
from rcnn.models.zoo.naming import Models, named


def faster_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Faster R-CNN: FBNetV3A to stride 16, a light head, 320 pixels."""
    return DetectorConfig(
        name="faster_rcnn_fbnetv3a_c4",
        input=replace(CAFFE_INPUT, min_size=320, max_size=640, resize="align_corners", divisor=0),
        backbone=FBNetConfig(),
        fpn=None,
        rpn=RPNConfig(
            head="fbnet",
            anchors=AnchorConfig(sizes=((32.0, 64.0, 96.0, 128.0, 160.0),)),
            proposals=ProposalConfig(post_nms_train=100, post_nms=30),
        ),
        box=BoxHeadConfig(trunk="fbnet", pooler=PoolerConfig(size=6), sampling=replace(BOX_SAMPLING, batch_size=128)),
    )


def mask_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Mask R-CNN: a mask branch of inverted residual blocks, which outputs 28x28."""
    return replace(faster_rcnn_fbnetv3a_c4(), name="mask_rcnn_fbnetv3a_c4", mask=MaskHeadConfig(trunk="fbnet", convs=0))


MODELS: Models = named(faster_rcnn_fbnetv3a_c4, mask_rcnn_fbnetv3a_c4)
