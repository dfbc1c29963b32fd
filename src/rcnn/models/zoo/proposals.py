"""The region proposal network alone (Ren et al. 2015, section 3.1): boxes that may contain an object, of any class."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import DetectorConfig
from rcnn.models.zoo.classic import caffe, faster_rcnn_r50_c4, faster_rcnn_r50_fpn
from rcnn.models.zoo.naming import Models, named


def rpn_r50_fpn() -> DetectorConfig:
    """The RPN of `faster_rcnn_r50_fpn`, with 2000 proposals in training."""
    config = faster_rcnn_r50_fpn()
    rpn = replace(config.rpn, proposals=replace(config.rpn.proposals, post_nms_train=2000))
    return replace(config, name="rpn_r50_fpn", proposals_only=True, num_classes=1, rpn=rpn)


def rpn_r50_c4() -> DetectorConfig:
    """The RPN of `faster_rcnn_r50_c4`: 15 anchors at each cell of one map of stride 16."""
    return replace(faster_rcnn_r50_c4(), name="rpn_r50_c4", proposals_only=True, num_classes=1)


def rpn_r50_fpn_caffe() -> DetectorConfig:
    """`rpn_r50_fpn` on Caffe's ResNet (Detectron, Detectron2)."""
    return caffe(rpn_r50_fpn())


def rpn_r50_c4_caffe() -> DetectorConfig:
    """`rpn_r50_c4` on Caffe's ResNet (Detectron, Detectron2)."""
    return caffe(rpn_r50_c4())


MODELS: Models = named(rpn_r50_fpn, rpn_r50_c4, rpn_r50_fpn_caffe, rpn_r50_c4_caffe)
