"""Detectron's settings as one of our configs, legacy choices and all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from rcnn.models import DetectorConfig
from rcnn.models.config import (
    AnchorConfig,
    BoxHeadConfig,
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    LegacyConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    PoolerConfig,
    Pooling,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SamplingConfig,
    SelectionConfig,
)
from rcnn.weights.systems.classes import unnamed_keypoints
from rcnn.weights.systems.detectron.settings import DEFAULTS, require_known
from rcnn.weights.systems.detectron2.config import network_name
from rcnn.weights.systems.detectron2.settings import listed
from rcnn.weights.systems.settings import Unread

POOLERS: dict[str, Pooling] = {"RoIAlign": "roi_align", "RoIPoolF": "roi_pool"}
LEVELS = range(2, 7)
# the last word of a function's name: (its stacked convolutions, None for the setting's; its fully connected layers)
BOX_HEADS: dict[str, tuple[int | None, int]] = {
    "add_roi_2mlp_head": (0, 2),
    "add_roi_Xconv1fc_head": (None, 1),
    "add_roi_Xconv1fc_gn_head": (None, 1),
}
MASK_HEADS: dict[str, int] = {
    "mask_rcnn_fcn_head_v1up": 2,
    "mask_rcnn_fcn_head_v1up4convs": 4,
    "mask_rcnn_fcn_head_v1up4convs_gn": 4,
}


def config_of(settings: Mapping[str, Any], *, depth: Literal[50, 101, 152], source: str) -> DetectorConfig:
    """The config that Detectron's flat `settings` describe, on a ResNet of `depth` layers.

    Raises ValueError that names `source` and a setting that is not ours.
    """
    get = {key: listed(value) for key, value in settings.items() if not isinstance(value, Unread)}
    get = DEFAULTS | get
    if get.get("RETINANET.RETINANET_ON"):
        raise ValueError(f"{source}: RETINANET.RETINANET_ON=True is a one-stage detector, and no R-CNN")
    only, masks, keypoints = get["MODEL.RPN_ONLY"], get["MODEL.MASK_ON"], get["MODEL.KEYPOINTS_ON"]
    masks, keypoints = masks and not only, keypoints and not only
    require_known(settings, source, masks=masks, keypoints=keypoints)
    if not only and not get["MODEL.FASTER_RCNN"]:
        raise ValueError(
            f"{source}: MODEL.FASTER_RCNN=False is Fast R-CNN on proposals from a file, and has no RPN; "
            "expected an end-to-end model, or an RPN"
        )
    fpn = get["FPN.FPN_ON"]
    norm = "gn" if get["RESNETS.TRANS_FUNC"] == "bottleneck_gn_transformation" else "frozen_bn"
    backbone = ResNetConfig(
        depth=depth,
        groups=get["RESNETS.NUM_GROUPS"],
        width_per_group=get["RESNETS.WIDTH_PER_GROUP"],
        stages=(2, 3, 4, 5) if fpn else (2, 3, 4),
        stride_in_1x1=get["RESNETS.STRIDE_1X1"],
        norm=norm,
        norm_eps=1e-5 if norm == "gn" else 0.0,  # an AffineChannel has none
        frozen_stages=5 if get["TRAIN.FREEZE_CONV_BODY"] else get["TRAIN.FREEZE_AT"],
    )
    if get["RESNETS.RES5_DILATION"] != 1:
        raise ValueError(
            f"{source}: RESNETS.RES5_DILATION={get['RESNETS.RES5_DILATION']!r} is not supported; expected 1"
        )
    return DetectorConfig(
        name=network_name(backbone, "fpn" if fpn else "c4", only=only, masks=masks, keypoints=keypoints),
        num_classes=1 if only else get["MODEL.NUM_CLASSES"] - 1,
        input=InputConfig(
            min_size=get["TEST.SCALE"],
            max_size=get["TEST.MAX_SIZE"],
            resize="opencv_float",
            size_rounding="factor_limit",
            rescale="factor",
            channel_order="bgr",
            pixel_mean=_three(get["PIXEL_MEANS"], source),
            pixel_std=(1.0, 1.0, 1.0),
            divisor=get["FPN.COARSEST_STRIDE"] if fpn else 0,
        ),
        backbone=backbone,
        fpn=FPNConfig(channels=get["FPN.DIM"], norm="gn" if get["FPN.USE_GN"] else "none") if fpn else None,
        rpn=_rpn(get, fpn),
        proposals_only=only,
        box=BoxHeadConfig() if only else _box(get, source),
        mask=_mask(get, source) if masks else None,
        keypoint=_keypoint(get, source) if keypoints else None,
        legacy=LegacyConfig(boxes="inclusive"),
    )


def _rpn(get: Mapping[str, Any], fpn: bool) -> RPNConfig:
    sizes: tuple[tuple[float, ...], ...] = (tuple(float(size) for size in get["RPN.SIZES"]),)
    if fpn:
        sizes = tuple((float(get["FPN.RPN_ANCHOR_START_SIZE"] * 2 ** (level - LEVELS[0])),) for level in LEVELS)
    return RPNConfig(
        max_log_scale=float(get["BBOX_XFORM_CLIP"]),
        smooth_l1_beta=1 / 9,
        anchors=AnchorConfig(
            sizes=sizes,
            ratios=tuple(float(ratio) for ratio in get["FPN.RPN_ASPECT_RATIOS" if fpn else "RPN.ASPECT_RATIOS"]),
        ),
        legacy=LegacyRPNConfig(
            anchors="detectron",
            straddle=float(get["TRAIN.RPN_STRADDLE_THRESH"]) if get["TRAIN.RPN_STRADDLE_THRESH"] >= 0 else -1.0,
            min_size_original=True,
            normalizer="sampled",
        ),
        sampling=SamplingConfig(
            positive_iou=float(get["TRAIN.RPN_POSITIVE_OVERLAP"]),
            negative_iou=float(get["TRAIN.RPN_NEGATIVE_OVERLAP"]),
            batch_size=get["TRAIN.RPN_BATCH_SIZE_PER_IM"],
            positive_fraction=get["TRAIN.RPN_FG_FRACTION"],
        ),
        proposals=ProposalConfig(
            nms_iou=get["TEST.RPN_NMS_THRESH"],
            pre_nms_train=get["TRAIN.RPN_PRE_NMS_TOP_N"],
            pre_nms=get["TEST.RPN_PRE_NMS_TOP_N"],
            post_nms_train=get["TRAIN.RPN_POST_NMS_TOP_N"],
            post_nms=get["TEST.RPN_POST_NMS_TOP_N"],
            min_size=float(max(get["TEST.RPN_MIN_SIZE"], 1)),
        ),
    )


def _box(get: Mapping[str, Any], source: str) -> BoxHeadConfig:
    head = get["FAST_RCNN.ROI_BOX_HEAD"].rpartition(".")[2]
    layers: dict[str, Any] = {"trunk": "res5"}
    if head != "add_ResNet_roi_conv5_head":
        convs, fcs = BOX_HEADS.get(head, (0, 0))
        if not fcs:
            known = " or ".join(["add_ResNet_roi_conv5_head", *BOX_HEADS])
            raise ValueError(f"{source}: FAST_RCNN.ROI_BOX_HEAD={head!r} is not supported; expected {known}")
        layers = {
            "convs": get["FAST_RCNN.NUM_STACKED_CONVS"] if convs is None else convs,
            "conv_width": get["FAST_RCNN.CONV_HEAD_DIM"] if convs is None else BoxHeadConfig().conv_width,
            "norm": "gn" if head.endswith("_gn_head") else "none",
            "fcs": fcs,
            "fc_width": get["FAST_RCNN.MLP_HEAD_DIM"],
        }
    soft = get["TEST.SOFT_NMS.METHOD"] if get["TEST.SOFT_NMS.ENABLED"] else "hard"
    return BoxHeadConfig(
        **layers,
        pooler=_pooler(get, "FAST_RCNN.ROI_XFORM_", source),
        class_agnostic=get["MODEL.CLS_AGNOSTIC_BBOX_REG"],
        delta_weights=_four(get["MODEL.BBOX_REG_WEIGHTS"], source),
        max_log_scale=float(get["BBOX_XFORM_CLIP"]),
        smooth_l1_beta=1.0,
        score_threshold=float(get["TEST.SCORE_THRESH"]),
        sampling=SamplingConfig(
            positive_iou=get["TRAIN.FG_THRESH"],
            min_negative_iou=float(get["TRAIN.BG_THRESH_LO"]),
            batch_size=get["TRAIN.BATCH_SIZE_PER_IM"],
            positive_fraction=get["TRAIN.FG_FRACTION"],
        ),
        selection=SelectionConfig(
            nms_iou=float(get["TEST.NMS"]),
            nms="hard" if soft == "hard" else "soft_linear" if soft == "linear" else "soft_gaussian",
            soft_nms_sigma=float(get["TEST.SOFT_NMS.SIGMA"]),
            soft_nms_threshold=0.0001,
            max_detections=get["TEST.DETECTIONS_PER_IM"],
        ),
    )


def _mask(get: Mapping[str, Any], source: str) -> MaskHeadConfig:
    head = get["MRCNN.ROI_MASK_HEAD"].rpartition(".")[2]
    shared = head == "mask_rcnn_fcn_head_v0upshare"
    if not shared and head not in MASK_HEADS:
        known = " or ".join(["mask_rcnn_fcn_head_v0upshare", *MASK_HEADS])
        raise ValueError(f"{source}: MRCNN.ROI_MASK_HEAD={head!r} is not supported; expected {known}")
    if not shared and get["MRCNN.DILATION"] != 1:
        raise ValueError(f"{source}: MRCNN.DILATION={get['MRCNN.DILATION']!r} is not supported; expected 1")
    pooler = _pooler(get, "MRCNN.ROI_XFORM_", source)
    if shared:  # trained on the box head's regions; masks of detections are pooled by MRCNN's settings, as large
        pooler = replace(pooler, size=get["FAST_RCNN.ROI_XFORM_RESOLUTION"])
    return MaskHeadConfig(
        trunk="res5" if shared else "convs",
        convs=0 if shared else MASK_HEADS[head],
        width=get["MRCNN.DIM_REDUCED"],
        norm="gn" if head.endswith("_gn") else "none",
        class_agnostic=not get["MRCNN.CLS_SPECIFIC_MASK"],
        pooler=pooler,
        paste="padded",
    )


def _keypoint(get: Mapping[str, Any], source: str) -> KeypointHeadConfig:
    head = KeypointHeadConfig(
        convs=get["KRCNN.NUM_STACKED_CONVS"],
        width=get["KRCNN.CONV_HEAD_DIM"],
        pooler=_pooler(get, "KRCNN.ROI_XFORM_", source),
        normalizer="visible" if get["KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS"] else "batch_size",
        loss_weight=float(get["KRCNN.LOSS_WEIGHT"]),
    )
    return unnamed_keypoints(head, get["KRCNN.NUM_KEYPOINTS"])


def _pooler(get: Mapping[str, Any], prefix: str, source: str) -> PoolerConfig:
    method = get[f"{prefix}METHOD"]
    if method not in POOLERS:
        raise ValueError(f"{source}: {prefix}METHOD={method!r} is not supported; expected {' or '.join(POOLERS)}")
    return PoolerConfig(
        kind=POOLERS[method],
        size=get[f"{prefix}RESOLUTION"],
        sampling_ratio=get[f"{prefix}SAMPLING_RATIO"],
        aligned=False,
    )


def _three(values: list[float], source: str) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"{source}: PIXEL_MEANS={values!r}: expected three numbers, blue, green, red")
    blue, green, red = (float(value) for value in values)
    return blue, green, red


def _four(values: list[float], source: str) -> tuple[float, float, float, float]:
    if len(values) != 4:
        raise ValueError(f"{source}: MODEL.BBOX_REG_WEIGHTS={values!r}: expected four numbers")
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height
