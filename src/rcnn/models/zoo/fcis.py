"""FCIS (Li et al. 2017): the authors' version (MXNet) and two ports to Chainer."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    FCIS_SAMPLING,
    NO_LIMIT,
    RPN_SAMPLING,
    AnchorConfig,
    CompactConfig,
    DetectorConfig,
    FCISConfig,
    InputConfig,
    LegacyConfig,
    LegacyFCISConfig,
    LegacyRPNConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
)
from rcnn.models.zoo.classic import with_depth
from rcnn.models.zoo.naming import Models, named

COCO_SIZES = ((64.0, 128.0, 256.0, 512.0),)
VOC_SIZES = ((128.0, 256.0, 512.0),)


def fcis_r101_coco() -> DetectorConfig:
    """The authors' COCO model: OHEM, inclusive boxes, anchors rounded to whole pixels."""
    return DetectorConfig(
        name="fcis_r101_coco",
        input=InputConfig(
            min_size=600,
            max_size=1000,
            resize="opencv",
            size_rounding="factor_limit",
            rescale="factor",
            pixel_mean=(123.15, 115.90, 103.06),
            pixel_std=(1.0, 1.0, 1.0),
            divisor=0,
        ),
        backbone=ResNetConfig(depth=101, stride_in_1x1=True, stem_pool="unpadded_ceil", res5_dilation=2),
        fpn=None,
        rpn=RPNConfig(
            width=512,
            max_log_scale=NO_LIMIT,  # as in all three versions
            smooth_l1_beta=1 / 9,
            anchors=AnchorConfig(sizes=COCO_SIZES),
            legacy=LegacyRPNConfig(
                anchors="detectron",
                objectness="softmax",
                straddle=0.0,
                whole_cells=True,
                min_size_first=True,
                normalizer="sampled_objectness",
            ),
            proposals=ProposalConfig(pre_nms_train=6000, pre_nms=6000, post_nms_train=300, post_nms=300, min_size=2.0),
        ),
        fcis=FCISConfig(),
        legacy=LegacyConfig(boxes="inclusive"),
    )


def fcis_r50_coco() -> DetectorConfig:
    """`fcis_r101_coco` with 50 layers."""
    return with_depth(fcis_r101_coco(), 50)


def fcis_r101_voc() -> DetectorConfig:
    """The authors' model for VOC with the masks of SBD: larger anchors, randomly sampled regions."""
    return for_voc(fcis_r101_coco(), "fcis_r101_voc")


def fcis_r101_coco_chainercv() -> DetectorConfig:
    """ChainerCV's port: half-open boxes, regions not rounded, votes clipped to [0, 1]."""
    config = fcis_r101_coco()
    return replace(
        config,
        name="fcis_r101_coco_chainercv",
        input=replace(config.input, resize="opencv_float", size_rounding="floor", rescale="width"),
        rpn=replace(
            config.rpn,
            legacy=replace(
                config.rpn.legacy,
                anchors="plain",
                objectness="object_logit",
                whole_cells=False,
                min_size_original=True,
                normalizer="sampled",
            ),
            anchors=replace(config.rpn.anchors, offset=0.5),
        ),
        fcis=FCISConfig(
            ohem=False,
            legacy=LegacyFCISConfig(
                rounded_regions=False, mask_within_box=False, mask_inclusive=False, clip_votes=True
            ),
        ),
        legacy=LegacyConfig(),
    )


def fcis_r101_sbd_chainercv() -> DetectorConfig:
    """`fcis_r101_coco_chainercv` for SBD."""
    return for_voc(fcis_r101_coco_chainercv(), "fcis_r101_sbd_chainercv")


def fcis_r101_coco_chainer() -> DetectorConfig:
    """chainer-fcis's port: half-open boxes, rounded regions, mask loss per pixel, small detections removed last."""
    config = fcis_r101_coco_chainercv()
    return replace(
        config,
        name="fcis_r101_coco_chainer",
        input=replace(config.input, rescale="height"),
        fcis=FCISConfig(ohem=False, legacy=LegacyFCISConfig(mask_loss="pixels", drop="after")),
    )


def fcis_r101_sbd_chainer() -> DetectorConfig:
    """`fcis_r101_coco_chainer` for SBD."""
    return for_voc(fcis_r101_coco_chainer(), "fcis_r101_sbd_chainer")


def fcis_compact() -> DetectorConfig:
    """A small FCIS to train from scratch in minutes on a CPU."""
    return DetectorConfig(
        name="fcis_compact",
        num_classes=6,
        input=InputConfig(min_size=160, max_size=320),
        backbone=CompactConfig(res5_stride=1),
        fpn=None,
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=((16.0, 26.0, 42.0, 66.0, 104.0),)),
            proposals=ProposalConfig(pre_nms_train=200, pre_nms=200, post_nms_train=100, post_nms=100),
            sampling=replace(RPN_SAMPLING, batch_size=128),
        ),
        fcis=FCISConfig(
            width=96, sampling=replace(FCIS_SAMPLING, batch_size=48), legacy=LegacyFCISConfig(rounded_regions=False)
        ),
    )


def for_voc(config: DetectorConfig, name: str) -> DetectorConfig:
    """The model for the 20 classes of VOC and SBD: larger anchors, random regions, negative IoU from 0.1."""
    if config.fcis is None:
        raise ValueError(f"{config.name} is not an FCIS model; expected one, e.g. fcis_r101_coco")
    return replace(
        config,
        name=name,
        num_classes=20,
        rpn=replace(
            config.rpn,
            anchors=replace(config.rpn.anchors, sizes=VOC_SIZES),
            proposals=replace(config.rpn.proposals, min_size=16.0),
        ),
        fcis=replace(
            config.fcis, ohem=False, min_size=16.0, sampling=replace(config.fcis.sampling, min_negative_iou=0.1)
        ),
    )


MODELS: Models = named(
    fcis_r101_coco, fcis_r50_coco, fcis_r101_voc, fcis_r101_coco_chainercv, fcis_r101_sbd_chainercv,
    fcis_r101_coco_chainer, fcis_r101_sbd_chainer, fcis_compact,
)  # fmt: skip
