"""Builds our config from Detectron's settings, with the rules of the old network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.classes import unnamed_keypoints
from rcnn.weights.systems.detectron.settings import ONLY, ONLY_KEYPOINT, ONLY_MASK, Settings
from rcnn.weights.systems.detectron2.config import network_name
from rcnn.weights.systems.settings import field_of, require_only, same_settings, typed

POOLERS: dict[str, cfg.Pooling] = {"RoIAlign": "roi_align", "RoIPoolF": "roi_pool"}
LEVELS = range(2, 7)
# function of a head -> (number of convolutions, None: from the settings; number of fully connected layers)
BOX_HEADS: dict[str, tuple[int | None, int]] = {
    "add_roi_2mlp_head": (0, 2),
    "add_roi_Xconv1fc_head": (None, 1),
    "add_roi_Xconv1fc_gn_head": (None, 1),
}
MASK_HEADS: dict[str, int] = {  # function of a head -> number of convolutions
    "mask_rcnn_fcn_head_v1up": 2,
    "mask_rcnn_fcn_head_v1up4convs": 4,
    "mask_rcnn_fcn_head_v1up4convs_gn": 4,
}


def config_of(settings: Mapping[str, object], *, depth: Literal[50, 101, 152], source: str) -> DetectorConfig:
    """The config for Detectron's flat `settings`, on a ResNet of `depth` layers.

    Raises ValueError that names `source` and a setting that is not supported.
    """
    theirs = typed(Settings, settings, source).values
    if settings.get("RETINANET.RETINANET_ON"):
        raise ValueError(f"{source}: RETINANET.RETINANET_ON=True is a one-stage detector, not an R-CNN")
    only, masks, keypoints = theirs.model_rpn_only, theirs.model_mask_on, theirs.model_keypoints_on
    masks, keypoints = masks and not only, keypoints and not only
    only_heads = (ONLY_MASK if masks else {}) | (ONLY_KEYPOINT if keypoints else {})
    require_only(settings, ONLY | only_heads, source)
    if not only and not theirs.model_faster_rcnn:
        raise ValueError(
            f"{source}: MODEL.FASTER_RCNN=False is Fast R-CNN on proposals from a file, and has no RPN; "
            "expected an end-to-end model, or an RPN"
        )
    fpn = theirs.fpn_fpn_on
    norm = "gn" if theirs.resnets_trans_func == "bottleneck_gn_transformation" else "frozen_bn"
    backbone = cfg.ResNetConfig(
        depth=depth,
        stages=(2, 3, 4, 5) if fpn else (2, 3, 4),
        norm=norm,
        norm_eps=1e-5 if norm == "gn" else 0.0,  # AffineChannel has no eps
        frozen_stages=5 if theirs.train_freeze_conv_body else theirs.train_freeze_at,
    )
    if theirs.resnets_res5_dilation != 1:
        raise ValueError(f"{source}: RESNETS.RES5_DILATION={theirs.resnets_res5_dilation} is not supported; expected 1")
    config = DetectorConfig(
        name="",
        num_classes=1 if only else theirs.model_num_classes - 1,
        input=cfg.InputConfig(
            resize="opencv_float",
            size_rounding="factor_limit",
            rescale="factor",
            channel_order="bgr",
            pixel_std=(1.0, 1.0, 1.0),
            divisor=theirs.fpn_coarsest_stride if fpn else 0,
        ),
        backbone=backbone,
        fpn=cfg.FPNConfig(norm="gn" if theirs.fpn_use_gn else "none") if fpn else None,
        rpn=_rpn(theirs, fpn),
        proposals_only=only,
        box=cfg.BoxHeadConfig() if only else _box(theirs, source),
        mask=_mask(theirs, source) if masks else None,
        keypoint=_keypoint(theirs, source) if keypoints else None,
        legacy=cfg.LegacyConfig(boxes="inclusive"),
    )
    config = with_settings(config, same_settings(theirs, config))
    return replace(config, name=network_name(config))


def _rpn(theirs: Settings, fpn: bool) -> cfg.RPNConfig:
    sizes: tuple[tuple[float, ...], ...] = (theirs.rpn_sizes,)
    if fpn:
        sizes = tuple((theirs.fpn_rpn_anchor_start_size * 2 ** (level - LEVELS[0]),) for level in LEVELS)
    return cfg.RPNConfig(
        max_log_scale=theirs.bbox_xform_clip,
        smooth_l1_beta=1 / 9,
        anchors=cfg.AnchorConfig(
            sizes=sizes,
            ratios=theirs.fpn_rpn_aspect_ratios if fpn else theirs.rpn_aspect_ratios,
        ),
        legacy=cfg.LegacyRPNConfig(
            anchors="detectron",
            straddle=theirs.train_rpn_straddle_thresh if theirs.train_rpn_straddle_thresh >= 0 else -1.0,
            min_size_original=True,
            normalizer="sampled",
        ),
        proposals=cfg.ProposalConfig(
            min_size=max(theirs.test_rpn_min_size, 1.0),
        ),
    )


def _box(theirs: Settings, source: str) -> cfg.BoxHeadConfig:
    head = theirs.fast_rcnn_roi_box_head.rpartition(".")[2]
    box = cfg.BoxHeadConfig(trunk="res5")
    if head != "add_ResNet_roi_conv5_head":
        convs, fcs = BOX_HEADS.get(head, (0, 0))
        if not fcs:
            known = " or ".join(["add_ResNet_roi_conv5_head", *BOX_HEADS])
            raise ValueError(f"{source}: FAST_RCNN.ROI_BOX_HEAD={head!r} is not supported; expected {known}")
        box = cfg.BoxHeadConfig(
            convs=theirs.fast_rcnn_num_stacked_convs if convs is None else convs,
            conv_width=theirs.fast_rcnn_conv_head_dim if convs is None else box.conv_width,
            norm="gn" if head.endswith("_gn_head") else "none",
            fcs=fcs,
            fc_width=theirs.fast_rcnn_mlp_head_dim,
        )
    soft = theirs.test_soft_nms_method if theirs.test_soft_nms_enabled else "hard"
    return replace(
        box,
        pooler=_pooler(theirs, "FAST_RCNN.ROI_XFORM_", source),
        max_log_scale=theirs.bbox_xform_clip,
        smooth_l1_beta=1.0,
        selection=cfg.SelectionConfig(
            nms="hard" if soft == "hard" else "soft_linear" if soft == "linear" else "soft_gaussian",
            soft_nms_threshold=0.0001,
        ),
    )


def _mask(theirs: Settings, source: str) -> cfg.MaskHeadConfig:
    head = theirs.mrcnn_roi_mask_head.rpartition(".")[2]
    shared = head == "mask_rcnn_fcn_head_v0upshare"
    if not shared and head not in MASK_HEADS:
        known = " or ".join(["mask_rcnn_fcn_head_v0upshare", *MASK_HEADS])
        raise ValueError(f"{source}: MRCNN.ROI_MASK_HEAD={head!r} is not supported; expected {known}")
    if not shared and theirs.mrcnn_dilation != 1:
        raise ValueError(f"{source}: MRCNN.DILATION={theirs.mrcnn_dilation} is not supported; expected 1")
    pooler = _pooler(theirs, "MRCNN.ROI_XFORM_", source)
    if shared:  # it is trained on the pooled regions of the box head, so its regions have the size of those
        pooler = replace(pooler, size=theirs.fast_rcnn_roi_xform_resolution)
    return cfg.MaskHeadConfig(
        trunk="res5" if shared else "convs",
        convs=0 if shared else MASK_HEADS[head],
        norm="gn" if head.endswith("_gn") else "none",
        class_agnostic=not theirs.mrcnn_cls_specific_mask,
        pooler=pooler,
        paste="padded",
    )


def _keypoint(theirs: Settings, source: str) -> cfg.KeypointHeadConfig:
    head = cfg.KeypointHeadConfig(
        pooler=_pooler(theirs, "KRCNN.ROI_XFORM_", source),
        normalizer="visible" if theirs.krcnn_normalize_by_visible_keypoints else "batch_size",
    )
    return unnamed_keypoints(head, theirs.krcnn_num_keypoints)


def _pooler(theirs: Settings, prefix: str, source: str) -> cfg.PoolerConfig:
    keys = (f"{prefix}METHOD", f"{prefix}RESOLUTION", f"{prefix}SAMPLING_RATIO")
    method, size, ratio = (getattr(theirs, field_of(key)) for key in keys)
    if method not in POOLERS:
        raise ValueError(f"{source}: {prefix}METHOD={method!r} is not supported; expected {' or '.join(POOLERS)}")
    return cfg.PoolerConfig(kind=POOLERS[method], size=size, sampling_ratio=ratio, aligned=False)
