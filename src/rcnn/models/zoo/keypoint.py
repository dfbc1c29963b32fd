"""Keypoint R-CNN (He et al. 2017, section 5): boxes and keypoints of persons, or of other classes."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import DetectorConfig, KeypointHeadConfig, PoolerConfig, ResNetConfig
from rcnn.models.zoo.classic import caffe, faster_rcnn_r50_fpn
from rcnn.models.zoo.compact import faster_rcnn_compact
from rcnn.models.zoo.d2go import faster_rcnn_fbnetv3a_c4
from rcnn.models.zoo.naming import Models, named


def keypoint_rcnn_r50_fpn() -> DetectorConfig:
    """He et al. 2017, section 5: `faster_rcnn_r50_fpn` of persons with a head of 8 convolutions and 56 x 56 maps."""
    config = replace(faster_rcnn_r50_fpn(), name="keypoint_rcnn_r50_fpn", num_classes=1, keypoint=KeypointHeadConfig())
    # as Detectron2, which reports lower box AP with 1000 proposals per image, and lower keypoint AP with plain L1
    rpn, box = (
        replace(config.rpn, proposals=replace(config.rpn.proposals, post_nms_train=1500)),
        replace(config.box, smooth_l1_beta=0.5),
    )
    return replace(config, rpn=rpn, box=box)


def keypoint_rcnn_r101_fpn() -> DetectorConfig:
    """`keypoint_rcnn_r50_fpn` with 101 layers."""
    return replace(keypoint_rcnn_r50_fpn(), name="keypoint_rcnn_r101_fpn", backbone=ResNetConfig(depth=101))


def keypoint_rcnn_r50_fpn_caffe() -> DetectorConfig:
    """`keypoint_rcnn_r50_fpn` on MSRA's ResNet: stride in the 1x1, BGR, means only."""
    return caffe(keypoint_rcnn_r50_fpn())


def keypoint_rcnn_r101_fpn_caffe() -> DetectorConfig:
    """`keypoint_rcnn_r101_fpn` on MSRA's ResNet."""
    return caffe(keypoint_rcnn_r101_fpn())


def keypoint_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Keypoint R-CNN: FBNetV3A to stride 16, 320 pixels, regions of 6 x 6 and maps of 24 x 24.

    D2Go at 79ea94d5, configs/keypoint_rcnn_fbnetv3a_dsmask_C4.yaml: POOLER_RESOLUTION of ROI_KEYPOINT_HEAD.
    """
    return replace(
        faster_rcnn_fbnetv3a_c4(),
        name="keypoint_rcnn_fbnetv3a_c4",
        num_classes=1,
        keypoint=KeypointHeadConfig(trunk="fbnet", convs=0, pooler=PoolerConfig(size=6)),
    )


def keypoint_rcnn_compact() -> DetectorConfig:
    """A small Keypoint R-CNN to train from scratch in minutes on a CPU."""
    return replace(
        faster_rcnn_compact(),
        name="keypoint_rcnn_compact",
        num_classes=1,
        keypoint=KeypointHeadConfig(convs=2, width=48, pooler=PoolerConfig(size=10)),
    )


MODELS: Models = named(
    keypoint_rcnn_r50_fpn,
    keypoint_rcnn_r101_fpn,
    keypoint_rcnn_r50_fpn_caffe,
    keypoint_rcnn_r101_fpn_caffe,
    keypoint_rcnn_fbnetv3a_c4,
    keypoint_rcnn_compact,
)
