"""D2Go's mobile detectors (FBNetV3A to stride 16, light heads)."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import BoxHeadConfig, DetectorConfig, FBNetConfig, MaskHeadConfig, RPNConfig
from rcnn.models.zoo.classic import CAFFE_INPUT
from rcnn.models.zoo.naming import Models, named


def faster_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Faster R-CNN: FBNetV3A to stride 16, a light head, 320 pixels."""
    return DetectorConfig(
        name="faster_rcnn_fbnetv3a_c4",
        input=replace(CAFFE_INPUT, min_size=320, max_size=640, resize="align_corners", divisor=0),
        backbone=FBNetConfig(),
        fpn=None,
        rpn=RPNConfig(sizes=((32.0, 64.0, 96.0, 128.0, 160.0),), head="fbnet", post_nms_train=100, post_nms=30),
        box=BoxHeadConfig(features="fbnet", roi_size=6, batch_size=128),
    )


def mask_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Mask R-CNN: the mask branch shrinks to 7x7 and grows to 28x28 by its own blocks."""
    return replace(
        faster_rcnn_fbnetv3a_c4(), name="mask_rcnn_fbnetv3a_c4", mask=MaskHeadConfig(features="fbnet", convs=0)
    )


MODELS: Models = named(faster_rcnn_fbnetv3a_c4, mask_rcnn_fbnetv3a_c4)
