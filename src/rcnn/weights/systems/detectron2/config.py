"""Builds our config from Detectron2's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.models.zoo import MODELS
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.classes import CITYSCAPES_CLASSES, VOC_CLASSES, class_names, unnamed_keypoints
from rcnn.weights.systems.detectron2.settings import ONLY, Settings
from rcnn.weights.systems.settings import field_of, require_only, same_settings, typed

PYRAMID = ("res2", "res3", "res4", "res5")
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
NORMS: dict[str, cfg.Norm] = {
    "": "none", "FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "nnSyncBN": "sync_bn",
    "naiveSyncBN": "sync_bn", "GN": "gn",
}  # fmt: skip
POOLERS: dict[str, cfg.Pooling] = {"ROIAlignV2": "roi_align", "ROIAlign": "roi_align", "ROIPool": "roi_pool"}
FC_LAYERS = ("box.convs", "box.conv_width", "box.fcs", "box.fc_width")  # a head of res5 has none of them
NO_ARCHITECTURES = {
    "PanopticFPN": "a panoptic network, which rcnn does not support",
    "SemanticSegmentor": "semantic segmentation, not an R-CNN",
    "RetinaNet": "a one-stage detector, not an R-CNN",
    "FCOS": "a one-stage detector, not an R-CNN",
}


def config_of(settings: Mapping[str, object], source: str) -> DetectorConfig:
    """The config for Detectron2's flat `settings`. Raises ValueError that names `source` and an unsupported setting."""
    settings = {key: [value] if key in ANCHORS and _is_one_row(value) else value for key, value in settings.items()}
    architecture = str(settings.get("MODEL.META_ARCHITECTURE"))
    if architecture in NO_ARCHITECTURES:
        raise ValueError(f"{source}: MODEL.META_ARCHITECTURE={architecture} is {NO_ARCHITECTURES[architecture]}")
    if settings.get("MODEL.LOAD_PROPOSALS"):
        raise ValueError(
            f"{source}: MODEL.LOAD_PROPOSALS=True is Fast R-CNN on proposals from a file; rcnn needs an RPN"
        )
    require_only(settings, ONLY, source)
    theirs = typed(Settings, settings, source).values
    fpn = theirs.model_backbone_name == "build_resnet_fpn_backbone"
    only = theirs.model_meta_architecture == "ProposalNetwork"
    heads = theirs.model_roi_heads_name
    _require_together(theirs, source, fpn=fpn, heads="" if only else heads)
    cascade = not only and heads == "CascadeROIHeads"
    masks = theirs.model_mask_on and not only
    keypoints = theirs.model_keypoint_on and not only
    c4 = not fpn and theirs.model_resnets_out_features == ("res4",)
    config = DetectorConfig(
        name="",
        num_classes=1,
        input=cfg.InputConfig(
            resize="antialias",
            channel_order="bgr" if theirs.input_format == "BGR" else "rgb",
            divisor=32 if fpn else 0,
        ),
        backbone=cfg.ResNetConfig(stages=(2, 3, 4) if c4 else (2, 3, 4, 5), norm=NORMS[theirs.model_resnets_norm]),
        fpn=cfg.FPNConfig(norm=NORMS[theirs.model_fpn_norm]) if fpn else None,
        rpn=_rpn(theirs, 5 if fpn else 1, source),
        proposals_only=only,
        box=cfg.BoxHeadConfig() if only else _box(theirs),
        cascade=_cascade(theirs, source) if cascade else None,
        mask=_mask(theirs) if masks else None,
        keypoint=_keypoint(theirs, source) if keypoints else None,
    )
    config = with_settings(config, same_settings(theirs, config, skipped=skipped_settings(config)))
    return replace(config, name=network_name(config))


def classes_of(data: Any, config: DetectorConfig) -> tuple[str, ...]:
    """Class names for the data sets `data` (Detectron2's names), else COCO's for 80, else class_0, class_1, ..."""
    first = str(next(iter(data), "")) if isinstance(data, (list, tuple)) else str(data)
    if config.proposals_only:
        return ("object",)
    if config.num_classes == 1 and (config.keypoint is not None or first.startswith("keypoints_coco")):
        return ("person",)
    for begins, names in (("voc_", VOC_CLASSES), ("cityscapes_", CITYSCAPES_CLASSES)):
        if first.startswith(begins) and config.num_classes == len(names):
            return names
    return class_names(config.num_classes)


def _require_together(theirs: Settings, source: str, *, fpn: bool, heads: str) -> None:
    """Raise ValueError that names the first setting that is not supported, alone or together with the others."""
    out = theirs.model_resnets_out_features
    levels = ("p2", "p3", "p4", "p5", "p6") if fpn else out
    allowed: dict[str, tuple[Any, ...]] = {
        "MODEL.FPN.IN_FEATURES": (PYRAMID,) if fpn else ((), PYRAMID),
        "MODEL.RESNETS.NORM": tuple(name for name in NORMS if name),
        "MODEL.RESNETS.OUT_FEATURES": (PYRAMID,) if fpn else (("res4",), ("res5",)),
        "MODEL.RESNETS.RES5_DILATION": (1,) if fpn else (1, 2),
        "MODEL.RPN.IN_FEATURES": (levels,),
    }
    if heads:
        allowed |= {
            "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "CascadeROIHeads")
            if fpn or out != ("res4",)
            else ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads"),
            "MODEL.ROI_HEADS.IN_FEATURES": (levels[:4],),
        }
    if heads == "CascadeROIHeads":
        allowed |= {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (True,)}
    if heads == "Res5ROIHeads":
        allowed |= {"MODEL.KEYPOINT_ON": (False,), "MODEL.ROI_BOX_HEAD.NUM_CONV": (0,)}
        if theirs.model_mask_on:
            allowed |= {"MODEL.ROI_MASK_HEAD.NUM_CONV": (0,)}
    elif heads:
        allowed |= {"MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",)}
    for key, values in allowed.items():
        value = getattr(theirs, field_of(key))
        if value not in values:
            raise ValueError(f"{source}: {key}={value!r} is not supported; expected {' or '.join(map(repr, values))}")
    if theirs.input_min_size_test < 1:
        raise ValueError(
            f"{source}: INPUT.MIN_SIZE_TEST=0 (images are not resized) is not supported; expected a size in pixels"
        )
    if heads and theirs.test_detections_per_image < 1:
        raise ValueError(
            f"{source}: TEST.DETECTIONS_PER_IMAGE={theirs.test_detections_per_image} (no limit) is not "
            "supported; expected a number"
        )


def skipped_settings(config: DetectorConfig) -> tuple[str, ...]:
    """Settings of Detectron2 that a detector of `config` does not have, by our names."""
    return FC_LAYERS if config.box.trunk == "res5" else ()


def network_name(config: DetectorConfig) -> str:
    """The name of our zoo for a network that is built like Caffe2's or Detectron2's, or a similar name."""
    backbone = config.backbone
    assert isinstance(backbone, cfg.ResNetConfig)
    masks = config.mask is not None
    family = "keypoint_rcnn" if config.keypoint is not None else "mask_rcnn" if masks else "faster_rcnn"
    if config.cascade is not None:
        family = "cascade_mask_rcnn" if masks else "cascade_rcnn"
    family = "rpn" if config.proposals_only else family
    neck = "fpn" if config.fpn is not None else "c4" if backbone.stages == (2, 3, 4) else "dc5"
    trunk = f"r{backbone.depth}"
    if backbone.groups > 1:
        trunk = f"x{backbone.depth}_{backbone.groups}x{backbone.width_per_group}d"
    norm = {"gn": "_gn", "sync_bn": "_syncbn"}.get(backbone.norm, "")
    plain = f"{family}_{trunk}_{neck}{norm}"
    for name in (f"{plain}_caffe", plain):
        if name in MODELS:
            return name
    return f"{plain}_caffe" if backbone.stride_in_1x1 else plain


def _rpn(theirs: Settings, levels: int, source: str) -> cfg.RPNConfig:
    sizes, ratios = theirs.model_anchor_generator_sizes, theirs.model_anchor_generator_aspect_ratios
    sizes = sizes * levels if len(sizes) == 1 else sizes
    if len(sizes) != levels or not ratios or len(set(ratios)) > 1:
        raise ValueError(
            f"{source}: MODEL.ANCHOR_GENERATOR.SIZES={sizes!r}, ASPECT_RATIOS={ratios!r} are not supported; expected "
            f"sizes for one or {levels} levels, and the same ratios on all"
        )
    convs = theirs.model_rpn_conv_dims
    if not convs or len(set(convs)) > 1:
        raise ValueError(
            f"{source}: MODEL.RPN.CONV_DIMS={convs!r} is not supported; expected one number of channels, or -1, for all"
        )
    weight = theirs.model_rpn_loss_weight
    negative, positive = theirs.model_rpn_iou_thresholds
    straddle = theirs.model_rpn_boundary_thresh
    return cfg.RPNConfig(
        convs=len(convs),
        width=max(convs[0], 0),
        loss_weights=(weight, weight * theirs.model_rpn_bbox_reg_loss_weight),
        anchors=cfg.AnchorConfig(sizes=sizes, ratios=ratios[0]),
        sampling=replace(cfg.RPN_SAMPLING, positive_iou=positive, negative_iou=negative),
        legacy=cfg.LegacyRPNConfig(straddle=float(straddle) if straddle >= 0 else -1.0),
    )


def _box(theirs: Settings) -> cfg.BoxHeadConfig:
    (positive,) = theirs.model_roi_heads_iou_thresholds
    res5 = theirs.model_roi_heads_name == "Res5ROIHeads"
    return cfg.BoxHeadConfig(
        trunk="res5" if res5 else "fc",
        norm=NORMS["" if res5 else theirs.model_roi_box_head_norm],
        pooler=_pooler(theirs, "MODEL.ROI_BOX_HEAD.POOLER_"),
        sampling=replace(cfg.BOX_SAMPLING, positive_iou=positive),
    )


def _cascade(theirs: Settings, source: str) -> cfg.CascadeConfig:
    ious, weights = theirs.model_roi_box_cascade_head_ious, theirs.model_roi_box_cascade_head_bbox_reg_weights
    if len(ious) != len(weights) or not ious or ious[0] != theirs.model_roi_heads_iou_thresholds[0]:
        raise ValueError(
            f"{source}: MODEL.ROI_BOX_CASCADE_HEAD.IOUS={ious!r} and BBOX_REG_WEIGHTS={weights!r}: expected the "
            "same number of both, and a first IoU equal to MODEL.ROI_HEADS.IOU_THRESHOLDS="
            f"{theirs.model_roi_heads_iou_thresholds!r}"
        )
    return cfg.CascadeConfig(
        ious=ious,
        delta_weights=weights,
        loss_weights=(1.0,) * len(ious),
        feature_gradient=1 / len(ious),
    )


def _mask(theirs: Settings) -> cfg.MaskHeadConfig:
    res5 = theirs.model_roi_heads_name == "Res5ROIHeads"  # Res5ROIHeads pools once for both heads
    return cfg.MaskHeadConfig(
        trunk="res5" if res5 else "convs",
        convs=theirs.model_roi_mask_head_num_conv,
        norm=NORMS["" if res5 else theirs.model_roi_mask_head_norm],
        pooler=_pooler(theirs, "MODEL.ROI_BOX_HEAD.POOLER_" if res5 else "MODEL.ROI_MASK_HEAD.POOLER_"),
        target="polygon" if theirs.input_mask_format == "polygon" else "bitmap",
    )


def _keypoint(theirs: Settings, source: str) -> cfg.KeypointHeadConfig:
    convs, count = theirs.model_roi_keypoint_head_conv_dims, theirs.model_roi_keypoint_head_num_keypoints
    sigmas = theirs.test_keypoint_oks_sigmas
    if not convs or len(set(convs)) > 1:
        raise ValueError(f"{source}: MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS={convs!r}: expected the same number for all")
    if sigmas and len(sigmas) != count:
        raise ValueError(
            f"{source}: TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers; expected {count}, one per keypoint"
        )
    head = cfg.KeypointHeadConfig(
        convs=len(convs),
        width=convs[0],
        pooler=_pooler(theirs, "MODEL.ROI_KEYPOINT_HEAD.POOLER_"),
        normalizer=("visible" if theirs.model_roi_keypoint_head_normalize_loss_by_visible_keypoints else "batch_size"),
    )
    head = unnamed_keypoints(head, count)
    return replace(head, sigmas=sigmas) if sigmas else head


def _pooler(theirs: Settings, prefix: str) -> cfg.PoolerConfig:
    keys = (f"{prefix}TYPE", f"{prefix}RESOLUTION", f"{prefix}SAMPLING_RATIO")
    kind, size, ratio = (getattr(theirs, field_of(key)) for key in keys)
    return cfg.PoolerConfig(kind=POOLERS[kind], size=size, sampling_ratio=ratio, aligned=kind != "ROIAlign")


def _is_one_row(value: object) -> bool:
    """Whether anchors are one row of numbers, for all levels."""
    return isinstance(value, (list, tuple)) and not any(isinstance(row, (list, tuple)) for row in value)
