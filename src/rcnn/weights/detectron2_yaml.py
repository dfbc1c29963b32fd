"""Detectron2's YAML as one of our configs. Every key is accounted for: one that would change results and is not ours is
an error, never ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rcnn.models import DetectorConfig, model_config
from rcnn.models.config import BoxHeadConfig, FPNConfig, InputConfig, MaskHeadConfig, ResNetConfig, RPNConfig

PYRAMID = ["res2", "res3", "res4", "res5"]

# what we read, and the value Detectron2 0.6 takes where a file does not say (its config/defaults.py)
DEFAULTS: dict[str, Any] = {
    "INPUT.FORMAT": "BGR",
    "INPUT.MASK_FORMAT": "polygon",
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.CONV_DIMS": [-1],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}

# what we do one way only: any other value would give other results
ONLY: dict[str, Any] = {
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.FPN.NORM": "",
    "MODEL.KEYPOINT_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False] * 4,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": False,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "MODEL.ROI_HEADS.IOU_LABELS": [0, 1],
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.RPN.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "MODEL.RPN.IOU_LABELS": [0, -1, 1],
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "TEST.AUG.ENABLED": False,
    "VERSION": 2,
}

# beginnings of keys that say nothing of these networks: schedules, data, parts that ONLY or DEFAULTS keep switched off
IDLE = (
    "CUDNN_BENCHMARK", "DATALOADER.", "DATASETS.", "FLOAT32_PRECISION", "GLOBAL.", "OUTPUT_DIR", "SEED", "SOLVER.",
    "VIS_PERIOD", "INPUT.CROP.", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN", "INPUT.RANDOM_FLIP",
    "MODEL.ANCHOR_GENERATOR.ANGLES", "MODEL.DEVICE", "MODEL.PANOPTIC_FPN.", "MODEL.RETINANET.",
    "MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS", "MODEL.ROI_BOX_CASCADE_HEAD.",
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.FED_LOSS_", "MODEL.ROI_BOX_HEAD.NORM",
    "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.SEM_SEG_HEAD.", "MODEL.WEIGHTS", "TEST.AUG.", "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS", "TEST.KEYPOINT_OKS_SIGMAS", "TEST.PRECISE_BN.",
)  # fmt: skip


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file and of its `_BASE_`s, flat: {"MODEL.RPN.NMS_THRESH": 0.7}."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: want Detectron2's YAML (its config.yaml lies in OUTPUT_DIR)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not plain YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings; want Detectron2's YAML, which has MODEL: and INPUT:")
    settings: dict[str, Any] = {}
    base = content.pop("_BASE_", None)
    if base is not None:
        file = path.parent / str(base)
        if not file.exists():
            raise FileNotFoundError(
                f"{path} builds on {base}, and {file} does not exist: put it there, or give the whole config.yaml that "
                "training wrote to its OUTPUT_DIR"
            )
        if file.resolve() == path.resolve():
            raise ValueError(f"{path} names itself as its _BASE_")
        settings = read_settings(file)
    return settings | _flat(content, "")


def config_of(settings: Mapping[str, Any], source: str) -> DetectorConfig:
    """The config that Detectron2's flat `settings` describe; a ValueError names `source` and a key that is not ours."""
    _require_known(settings, source)
    get = DEFAULTS | dict(settings)
    fpn = get["MODEL.BACKBONE.NAME"] == "build_resnet_fpn_backbone"
    depth = get["MODEL.RESNETS.DEPTH"]
    levels = ["p2", "p3", "p4", "p5", "p6"] if fpn else ["res4"]
    allowed: dict[str, tuple[Any, ...]] = {
        "INPUT.FORMAT": ("BGR", "RGB"),
        "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
        "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone", "build_resnet_backbone"),
        "MODEL.FPN.IN_FEATURES": (PYRAMID,) if fpn else ([], PYRAMID),
        "MODEL.RESNETS.DEPTH": (50, 101),
        "MODEL.RESNETS.NORM": ("FrozenBN", "BN", "SyncBN"),
        "MODEL.RESNETS.OUT_FEATURES": (PYRAMID,) if fpn else (["res4"],),
        "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",) if fpn else ("Res5ROIHeads",),
        "MODEL.ROI_HEADS.IN_FEATURES": (levels[:4],),
        "MODEL.RPN.IN_FEATURES": (levels,),
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    }
    if fpn:
        allowed |= {"MODEL.ROI_BOX_HEAD.NUM_FC": (2,), "MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",)}
    elif get["MODEL.MASK_ON"]:
        allowed |= {"MODEL.ROI_MASK_HEAD.NUM_CONV": (0,)}
    for key, values in allowed.items():
        if _listed(get[key]) not in values:
            raise ValueError(f"{source}: {key}={get[key]!r} is not supported; want {' or '.join(map(repr, values))}")
    if get["INPUT.MIN_SIZE_TEST"] < 1:
        raise ValueError(
            f"{source}: INPUT.MIN_SIZE_TEST=0 (images as they are) is not supported; want a size in pixels"
        )
    kind = f"{'mask' if get['MODEL.MASK_ON'] else 'faster'}_rcnn_r{depth}_{'fpn' if fpn else 'c4'}_caffe"
    return replace(
        model_config(kind),
        num_classes=get["MODEL.ROI_HEADS.NUM_CLASSES"],
        input=InputConfig(
            min_size=get["INPUT.MIN_SIZE_TEST"],
            max_size=get["INPUT.MAX_SIZE_TEST"],
            resize="antialias",
            channel_order="bgr" if get["INPUT.FORMAT"] == "BGR" else "rgb",
            pixel_mean=_floats(get["MODEL.PIXEL_MEAN"], 3, "MODEL.PIXEL_MEAN", source),
            pixel_std=_floats(get["MODEL.PIXEL_STD"], 3, "MODEL.PIXEL_STD", source),
            divisor=32 if fpn else 0,
        ),
        backbone=ResNetConfig(
            depth=depth,
            stages=(2, 3, 4, 5) if fpn else (2, 3, 4),
            stride_in_1x1=get["MODEL.RESNETS.STRIDE_IN_1X1"],
            norm="frozen_bn" if get["MODEL.RESNETS.NORM"] == "FrozenBN" else "bn",
            frozen_stages=get["MODEL.BACKBONE.FREEZE_AT"],
        ),
        fpn=FPNConfig(channels=get["MODEL.FPN.OUT_CHANNELS"]) if fpn else None,
        rpn=_rpn(get, len(levels), source),
        box=_box(get, fpn, source),
        mask=_mask(get, fpn) if get["MODEL.MASK_ON"] else None,
    )


def _rpn(get: Mapping[str, Any], levels: int, source: str) -> RPNConfig:
    sizes, ratios = get["MODEL.ANCHOR_GENERATOR.SIZES"], get["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"]
    sizes = list(sizes) * levels if len(sizes) == 1 else list(sizes)
    if len(sizes) != levels or any(list(row) != list(ratios[0]) for row in ratios):
        raise ValueError(
            f"{source}: MODEL.ANCHOR_GENERATOR.SIZES={sizes!r}, ASPECT_RATIOS={ratios!r} are not supported; want sizes "
            f"for one or {levels} levels, and the same ratios on all"
        )
    convs = list(get["MODEL.RPN.CONV_DIMS"])
    if any(width != -1 for width in convs):
        raise ValueError(f"{source}: MODEL.RPN.CONV_DIMS={convs!r} is not supported; want -1 for each convolution")
    negative, positive = get["MODEL.RPN.IOU_THRESHOLDS"]
    return RPNConfig(
        sizes=tuple(tuple(float(size) for size in row) for row in sizes),
        ratios=tuple(float(ratio) for ratio in ratios[0]),
        convs=len(convs),
        positive_iou=positive,
        negative_iou=negative,
        batch_size=get["MODEL.RPN.BATCH_SIZE_PER_IMAGE"],
        positive_fraction=get["MODEL.RPN.POSITIVE_FRACTION"],
        nms_iou=get["MODEL.RPN.NMS_THRESH"],
        pre_nms_train=get["MODEL.RPN.PRE_NMS_TOPK_TRAIN"],
        pre_nms=get["MODEL.RPN.PRE_NMS_TOPK_TEST"],
        post_nms_train=get["MODEL.RPN.POST_NMS_TOPK_TRAIN"],
        post_nms=get["MODEL.RPN.POST_NMS_TOPK_TEST"],
        min_size=float(get["MODEL.PROPOSAL_GENERATOR.MIN_SIZE"]),
        smooth_l1_beta=float(get["MODEL.RPN.SMOOTH_L1_BETA"]),
    )


def _box(get: Mapping[str, Any], fpn: bool, source: str) -> BoxHeadConfig:
    (positive,) = get["MODEL.ROI_HEADS.IOU_THRESHOLDS"]
    weights = _floats(get["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"], 4, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", source)
    return BoxHeadConfig(
        features="fc" if fpn else "res5",
        fc_width=get["MODEL.ROI_BOX_HEAD.FC_DIM"],
        roi_size=get["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"],
        sampling_ratio=get["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"],
        aligned=get["MODEL.ROI_BOX_HEAD.POOLER_TYPE"] == "ROIAlignV2",
        delta_weights=weights,
        positive_iou=positive,
        batch_size=get["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"],
        positive_fraction=get["MODEL.ROI_HEADS.POSITIVE_FRACTION"],
        smooth_l1_beta=float(get["MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"]),
        score_threshold=get["MODEL.ROI_HEADS.SCORE_THRESH_TEST"],
        nms_iou=get["MODEL.ROI_HEADS.NMS_THRESH_TEST"],
        max_detections=get["TEST.DETECTIONS_PER_IMAGE"],
    )


def _mask(get: Mapping[str, Any], fpn: bool) -> MaskHeadConfig:
    pooler = "MODEL.ROI_MASK_HEAD.POOLER_" if fpn else "MODEL.ROI_BOX_HEAD.POOLER_"  # C4 pools once for both heads
    return MaskHeadConfig(
        features="convs" if fpn else "res5",
        convs=get["MODEL.ROI_MASK_HEAD.NUM_CONV"],
        width=get["MODEL.ROI_MASK_HEAD.CONV_DIM"],
        roi_size=get[f"{pooler}RESOLUTION"],
        sampling_ratio=get[f"{pooler}SAMPLING_RATIO"],
        aligned=get[f"{pooler}TYPE"] == "ROIAlignV2",
        target="polygon" if get["INPUT.MASK_FORMAT"] == "polygon" else "bitmap",
    )


def _require_known(settings: Mapping[str, Any], source: str) -> None:
    for key, value in settings.items():
        if key in ONLY:
            if _listed(value) != ONLY[key]:
                raise ValueError(f"{source}: {key}={value!r} is not supported; want {ONLY[key]!r}")
        elif key in DEFAULTS:
            wanted = DEFAULTS[key]
            kinds = (int, float) if type(wanted) is float else (type(wanted),)
            fits = type(_listed(value)) in kinds
            if not fits:
                raise ValueError(f"{source}: {key}={value!r} is of the wrong kind; want one such as {wanted!r}")
        elif not key.startswith(IDLE):
            raise ValueError(
                f"{source}: {key}={value!r} is no setting of Detectron2 that we know, and might change results; "
                "if it does not, take the line out"
            )


def _flat(content: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str) and value[:1] in ("(", "["):  # a tuple, as their files write it
            try:
                flat[f"{prefix}{key}"] = ast.literal_eval(value)
            except (ValueError, SyntaxError) as error:
                raise ValueError(f"{prefix}{key}={value!r} cannot be read as a list of values") from error
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _floats(values: Any, count: int, key: str, source: str) -> Any:
    if len(values) != count:
        raise ValueError(f"{source}: {key}={values!r}: want {count} numbers")
    return tuple(float(value) for value in values)
