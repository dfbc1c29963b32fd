"""Detectron2's settings as one of our configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rcnn.models import DetectorConfig
from rcnn.models.config import (
    AnchorConfig,
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    Norm,
    PoolerConfig,
    Pooling,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SamplingConfig,
    SelectionConfig,
)
from rcnn.models.zoo import MODELS
from rcnn.weights.systems.classes import CITYSCAPES_CLASSES, VOC_CLASSES, class_names, unnamed_keypoints
from rcnn.weights.systems.detectron2.settings import DEFAULTS, listed, require_known

PYRAMID = ["res2", "res3", "res4", "res5"]
NORMS: dict[str, Norm] = {
    "": "none", "FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "nnSyncBN": "sync_bn",
    "naiveSyncBN": "sync_bn", "GN": "gn",
}  # fmt: skip
POOLERS: dict[str, Pooling] = {"ROIAlignV2": "roi_align", "ROIAlign": "roi_align", "ROIPool": "roi_pool"}
NO_ARCHITECTURES = {
    "PanopticFPN": "a panoptic network, whose stuff head we do not have",
    "SemanticSegmentor": "semantic segmentation, and no R-CNN",
    "RetinaNet": "a one-stage detector, and no R-CNN",
    "FCOS": "a one-stage detector, and no R-CNN",
}


def config_of(settings: Mapping[str, Any], source: str) -> DetectorConfig:
    """The config that Detectron2's flat `settings` describe; a ValueError names `source` and a key that is not ours."""
    get = {key: listed(value) for key, value in (DEFAULTS | dict(settings)).items()}
    if get["MODEL.META_ARCHITECTURE"] in NO_ARCHITECTURES:
        why = NO_ARCHITECTURES[get["MODEL.META_ARCHITECTURE"]]
        raise ValueError(f"{source}: MODEL.META_ARCHITECTURE={get['MODEL.META_ARCHITECTURE']} is {why}")
    if get.get("MODEL.LOAD_PROPOSALS"):
        raise ValueError(
            f"{source}: MODEL.LOAD_PROPOSALS=True is Fast R-CNN on proposals from a file; here an RPN does"
        )
    require_known(settings, source)
    fpn = get["MODEL.BACKBONE.NAME"] == "build_resnet_fpn_backbone"
    only = get["MODEL.META_ARCHITECTURE"] == "ProposalNetwork"
    heads = get["MODEL.ROI_HEADS.NAME"]
    _require_together(get, source, fpn=fpn, heads="" if only else heads)
    cascade = not only and heads == "CascadeROIHeads"
    masks = get["MODEL.MASK_ON"] and not only
    keypoints = get["MODEL.KEYPOINT_ON"] and not only
    levels = 5 if fpn else 1
    backbone = _backbone(get, fpn)
    neck = "fpn" if fpn else "c4" if get["MODEL.RESNETS.OUT_FEATURES"] == ["res4"] else "dc5"
    return DetectorConfig(
        name=network_name(backbone, neck, only=only, cascade=cascade, masks=masks, keypoints=keypoints),
        num_classes=1 if only else get["MODEL.ROI_HEADS.NUM_CLASSES"],
        input=InputConfig(
            min_size=get["INPUT.MIN_SIZE_TEST"],
            max_size=get["INPUT.MAX_SIZE_TEST"],
            resize="antialias",
            channel_order="bgr" if get["INPUT.FORMAT"] == "BGR" else "rgb",
            pixel_mean=_floats(get["MODEL.PIXEL_MEAN"], 3, "MODEL.PIXEL_MEAN", source),
            pixel_std=_floats(get["MODEL.PIXEL_STD"], 3, "MODEL.PIXEL_STD", source),
            divisor=32 if fpn else 0,
        ),
        backbone=backbone,
        fpn=FPNConfig(channels=get["MODEL.FPN.OUT_CHANNELS"], norm=NORMS[get["MODEL.FPN.NORM"]]) if fpn else None,
        rpn=_rpn(get, levels, source),
        proposals_only=only,
        box=BoxHeadConfig() if only else _box(get, source),
        cascade=_cascade(get, source) if cascade else None,
        mask=_mask(get) if masks else None,
        keypoint=_keypoint(get, source) if keypoints else None,
    )


def classes_of(data: Any, config: DetectorConfig) -> tuple[str, ...]:
    """Names of the classes, where the data sets trained on tell (names, as they are registered with Detectron2);
    else COCO's for 80, else class_0, class_1, ...
    """
    first = str(next(iter(data), "")) if isinstance(data, list | tuple) else str(data)
    if config.proposals_only:
        return ("object",)
    if config.num_classes == 1 and (config.keypoint is not None or first.startswith("keypoints_coco")):
        return ("person",)
    for begins, names in (("voc_", VOC_CLASSES), ("cityscapes_", CITYSCAPES_CLASSES)):
        if first.startswith(begins) and config.num_classes == len(names):
            return names
    return class_names(config.num_classes)


def _require_together(get: Mapping[str, Any], source: str, *, fpn: bool, heads: str) -> None:
    """A ValueError that names the first setting whose value is not to be had, or not with the others."""
    out = get["MODEL.RESNETS.OUT_FEATURES"]
    levels = ["p2", "p3", "p4", "p5", "p6"] if fpn else out
    norms = tuple(name for name in NORMS if name)
    allowed: dict[str, tuple[Any, ...]] = {
        "INPUT.FORMAT": ("BGR", "RGB"),
        "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
        "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "ProposalNetwork"),
        "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone", "build_resnet_backbone"),
        "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
        "MODEL.FPN.IN_FEATURES": (PYRAMID,) if fpn else ([], PYRAMID),
        "MODEL.FPN.NORM": tuple(NORMS),
        "MODEL.RESNETS.DEPTH": (50, 101, 152),
        "MODEL.RESNETS.NORM": norms,
        "MODEL.RESNETS.OUT_FEATURES": (PYRAMID,) if fpn else (["res4"], ["res5"]),
        "MODEL.RESNETS.RES5_DILATION": (1,) if fpn else (1, 2),
        "MODEL.RPN.IN_FEATURES": (levels,),
    }
    if heads:
        allowed |= {
            "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "CascadeROIHeads")
            if fpn or out != ["res4"]
            else ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads"),
            "MODEL.ROI_HEADS.IN_FEATURES": (levels[:4],),
            "MODEL.ROI_BOX_HEAD.NORM": tuple(NORMS),
            "MODEL.ROI_MASK_HEAD.NORM": tuple(NORMS),
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": tuple(POOLERS),
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE": tuple(POOLERS),
            "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": tuple(POOLERS),
        }
    if heads == "CascadeROIHeads":
        allowed |= {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (True,)}
    if heads == "Res5ROIHeads":
        allowed |= {"MODEL.KEYPOINT_ON": (False,), "MODEL.ROI_BOX_HEAD.NUM_CONV": (0,)}
        if get["MODEL.MASK_ON"]:
            allowed |= {"MODEL.ROI_MASK_HEAD.NUM_CONV": (0,)}
    elif heads:
        allowed |= {"MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",)}
    for key, values in allowed.items():
        if get[key] not in values:
            raise ValueError(
                f"{source}: {key}={get[key]!r} is not supported; expected {' or '.join(map(repr, values))}"
            )
    if get["INPUT.MIN_SIZE_TEST"] < 1:
        raise ValueError(
            f"{source}: INPUT.MIN_SIZE_TEST=0 (images as they are) is not supported; expected a size in pixels"
        )
    if heads and get["TEST.DETECTIONS_PER_IMAGE"] < 1:
        raise ValueError(
            f"{source}: TEST.DETECTIONS_PER_IMAGE={get['TEST.DETECTIONS_PER_IMAGE']} (as many as there are) is not "
            "supported; expected a number"
        )


def network_name(
    backbone: ResNetConfig,
    neck: str,
    *,
    only: bool = False,
    cascade: bool = False,
    masks: bool = False,
    keypoints: bool = False,
) -> str:
    """The name of our zoo for a network of Caffe's descent, or one made in the same way; `neck` fpn, c4 or dc5."""
    family = "rpn" if only else "keypoint_rcnn" if keypoints else "mask_rcnn" if masks else "faster_rcnn"
    if cascade:
        family = "cascade_mask_rcnn" if masks else "cascade_rcnn"
    trunk = f"r{backbone.depth}"
    if backbone.groups > 1:
        trunk = f"x{backbone.depth}_{backbone.groups}x{backbone.width_per_group}d"
    norm = {"gn": "_gn", "sync_bn": "_syncbn"}.get(backbone.norm, "")
    plain = f"{family}_{trunk}_{neck}{norm}"
    for name in (f"{plain}_caffe", plain):
        if name in MODELS:
            return name
    return f"{plain}_caffe" if backbone.stride_in_1x1 else plain


def _backbone(get: Mapping[str, Any], fpn: bool) -> ResNetConfig:
    return ResNetConfig(
        depth=get["MODEL.RESNETS.DEPTH"],
        groups=get["MODEL.RESNETS.NUM_GROUPS"],
        width_per_group=get["MODEL.RESNETS.WIDTH_PER_GROUP"],
        stages=(2, 3, 4) if not fpn and get["MODEL.RESNETS.OUT_FEATURES"] == ["res4"] else (2, 3, 4, 5),
        stride_in_1x1=get["MODEL.RESNETS.STRIDE_IN_1X1"],
        norm=NORMS[get["MODEL.RESNETS.NORM"]],
        frozen_stages=get["MODEL.BACKBONE.FREEZE_AT"],
        res5_dilation=get["MODEL.RESNETS.RES5_DILATION"],
    )


def _rpn(get: Mapping[str, Any], levels: int, source: str) -> RPNConfig:
    sizes, ratios = (
        given if any(isinstance(row, list) for row in given) else [given]  # one row, for all levels
        for given in (get["MODEL.ANCHOR_GENERATOR.SIZES"], get["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"])
    )
    sizes = sizes * levels if len(sizes) == 1 else sizes
    if len(sizes) != levels or not ratios or any(row != ratios[0] for row in ratios):
        raise ValueError(
            f"{source}: MODEL.ANCHOR_GENERATOR.SIZES={sizes!r}, ASPECT_RATIOS={ratios!r} are not supported; "
            "expected sizes "
            f"for one or {levels} levels, and the same ratios on all"
        )
    convs = get["MODEL.RPN.CONV_DIMS"]
    if not convs or len(set(convs)) > 1:
        raise ValueError(
            f"{source}: MODEL.RPN.CONV_DIMS={convs!r} is not supported; expected one number of channels, or -1, for all"
        )
    weight = float(get["MODEL.RPN.LOSS_WEIGHT"])
    negative, positive = _floats(get["MODEL.RPN.IOU_THRESHOLDS"], 2, "MODEL.RPN.IOU_THRESHOLDS", source)
    return RPNConfig(
        convs=len(convs),
        width=max(convs[0], 0),
        smooth_l1_beta=float(get["MODEL.RPN.SMOOTH_L1_BETA"]),
        loss_weights=(weight, weight * get["MODEL.RPN.BBOX_REG_LOSS_WEIGHT"]),
        anchors=AnchorConfig(
            sizes=tuple(tuple(float(size) for size in row) for row in sizes),
            ratios=tuple(float(ratio) for ratio in ratios[0]),
            offset=float(get["MODEL.ANCHOR_GENERATOR.OFFSET"]),
        ),
        sampling=SamplingConfig(
            positive_iou=positive,
            negative_iou=negative,
            batch_size=get["MODEL.RPN.BATCH_SIZE_PER_IMAGE"],
            positive_fraction=get["MODEL.RPN.POSITIVE_FRACTION"],
        ),
        legacy=LegacyRPNConfig(
            straddle=float(get["MODEL.RPN.BOUNDARY_THRESH"]) if get["MODEL.RPN.BOUNDARY_THRESH"] >= 0 else -1.0
        ),
        proposals=ProposalConfig(
            nms_iou=get["MODEL.RPN.NMS_THRESH"],
            pre_nms_train=get["MODEL.RPN.PRE_NMS_TOPK_TRAIN"],
            pre_nms=get["MODEL.RPN.PRE_NMS_TOPK_TEST"],
            post_nms_train=get["MODEL.RPN.POST_NMS_TOPK_TRAIN"],
            post_nms=get["MODEL.RPN.POST_NMS_TOPK_TEST"],
            min_size=float(get["MODEL.PROPOSAL_GENERATOR.MIN_SIZE"]),
        ),
    )


def _box(get: Mapping[str, Any], source: str) -> BoxHeadConfig:
    (positive,) = _floats(get["MODEL.ROI_HEADS.IOU_THRESHOLDS"], 1, "MODEL.ROI_HEADS.IOU_THRESHOLDS", source)
    weights = _floats(get["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"], 4, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", source)
    layers: dict[str, Any] = {"trunk": "res5"}
    if get["MODEL.ROI_HEADS.NAME"] != "Res5ROIHeads":
        layers = {
            "convs": get["MODEL.ROI_BOX_HEAD.NUM_CONV"],
            "conv_width": get["MODEL.ROI_BOX_HEAD.CONV_DIM"],
            "norm": NORMS[get["MODEL.ROI_BOX_HEAD.NORM"]],
            "fcs": get["MODEL.ROI_BOX_HEAD.NUM_FC"],
            "fc_width": get["MODEL.ROI_BOX_HEAD.FC_DIM"],
        }
    return BoxHeadConfig(
        **layers,
        pooler=_pooler(get, "MODEL.ROI_BOX_HEAD.POOLER_"),
        class_agnostic=get["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"],
        delta_weights=weights,
        append_ground_truth=get["MODEL.ROI_HEADS.PROPOSAL_APPEND_GT"],
        smooth_l1_beta=float(get["MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"]),
        delta_loss_weight=float(get["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"]),
        score_threshold=get["MODEL.ROI_HEADS.SCORE_THRESH_TEST"],
        sampling=SamplingConfig(
            positive_iou=positive,
            batch_size=get["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"],
            positive_fraction=get["MODEL.ROI_HEADS.POSITIVE_FRACTION"],
        ),
        selection=SelectionConfig(
            nms_iou=get["MODEL.ROI_HEADS.NMS_THRESH_TEST"], max_detections=get["TEST.DETECTIONS_PER_IMAGE"]
        ),
    )


def _cascade(get: Mapping[str, Any], source: str) -> CascadeConfig:
    key = "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"
    ious, weights = get["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"], get[key]
    if len(ious) != len(weights) or not ious or ious[0] != get["MODEL.ROI_HEADS.IOU_THRESHOLDS"][0]:
        raise ValueError(
            f"{source}: MODEL.ROI_BOX_CASCADE_HEAD.IOUS={ious!r} and BBOX_REG_WEIGHTS={weights!r}: expected as many of "
            f"each, the first IoU that of MODEL.ROI_HEADS.IOU_THRESHOLDS={get['MODEL.ROI_HEADS.IOU_THRESHOLDS']!r}"
        )
    return CascadeConfig(
        ious=tuple(float(iou) for iou in ious),
        delta_weights=tuple(_floats(row, 4, key, source) for row in weights),
        loss_weights=(1.0,) * len(ious),
        feature_gradient=1 / len(ious),
    )


def _mask(get: Mapping[str, Any]) -> MaskHeadConfig:
    res5 = get["MODEL.ROI_HEADS.NAME"] == "Res5ROIHeads"  # which pools once for both heads
    return MaskHeadConfig(
        trunk="res5" if res5 else "convs",
        convs=get["MODEL.ROI_MASK_HEAD.NUM_CONV"],
        width=get["MODEL.ROI_MASK_HEAD.CONV_DIM"],
        norm=NORMS["" if res5 else get["MODEL.ROI_MASK_HEAD.NORM"]],
        class_agnostic=get["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"],
        pooler=_pooler(get, "MODEL.ROI_BOX_HEAD.POOLER_" if res5 else "MODEL.ROI_MASK_HEAD.POOLER_"),
        target="polygon" if get["INPUT.MASK_FORMAT"] == "polygon" else "bitmap",
    )


def _keypoint(get: Mapping[str, Any], source: str) -> KeypointHeadConfig:
    convs, count = get["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"], get["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"]
    sigmas = get["TEST.KEYPOINT_OKS_SIGMAS"]
    if not convs or len(set(convs)) > 1:
        raise ValueError(f"{source}: MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS={convs!r}: expected the same number for all")
    if sigmas and len(sigmas) != count:
        raise ValueError(f"{source}: TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers for {count} keypoints")
    head = KeypointHeadConfig(
        convs=len(convs),
        width=convs[0],
        pooler=_pooler(get, "MODEL.ROI_KEYPOINT_HEAD.POOLER_"),
        normalizer=("visible" if get["MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"] else "batch_size"),
        loss_weight=float(get["MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT"]),
    )
    head = unnamed_keypoints(head, count)
    return replace(head, sigmas=tuple(float(sigma) for sigma in sigmas)) if sigmas else head


def _pooler(get: Mapping[str, Any], prefix: str) -> PoolerConfig:
    kind = get[f"{prefix}TYPE"]
    return PoolerConfig(
        kind=POOLERS[kind],
        size=get[f"{prefix}RESOLUTION"],
        sampling_ratio=get[f"{prefix}SAMPLING_RATIO"],
        aligned=kind != "ROIAlign",
    )


def _floats(values: Any, count: int, key: str, source: str) -> Any:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{source}: {key}={values!r}: expected {count} numbers")
    return tuple(float(value) for value in values)
