"""From tensorpack's settings, and the shapes of a network's tensors, to our config of the same detector."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rcnn.models import DetectorConfig
from rcnn.models.config import (
    AnchorConfig,
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    InputConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    Norm,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SamplingConfig,
    SelectionConfig,
)
from rcnn.weights.systems.resnets import depth_and_blocks
from rcnn.weights.systems.tensorpack.settings import DEFAULTS, Settings


def config_of(shapes: Mapping[str, tuple[int, ...]], settings: Settings, source: str) -> DetectorConfig:
    """The detector that tensors of these shapes are, with `settings` for what they do not say."""
    seen = _seen(shapes, source)
    for key in settings.given & seen.keys():
        if _plain(settings.get[key]) != _plain(seen[key]):
            raise ValueError(
                f"{source} has {key}={seen[key]!r} by its tensors, the given settings have {settings.get[key]!r}"
            )
    get = settings.get | seen
    for key in ("RPN.ANCHOR_STRIDE", "FPN.ANCHOR_STRIDES"):
        if _plain(get[key]) != _plain(DEFAULTS[key]):
            raise ValueError(f"{key}={get[key]!r}: anchors are as far apart as the network's maps, {DEFAULTS[key]!r}")
    pyramid, blocks = get["MODE_FPN"], tuple(get["BACKBONE.RESNET_NUM_BLOCKS"])
    size = get["PREPROC.MAX_SIZE"]
    if pyramid:  # tensorpack's finalizer does so: 1333 becomes 1344
        size = math.ceil(size / 32) * 32
    most = math.log(size / 16)
    cascade = None
    if pyramid and get["FPN.CASCADE"]:  # without one tensorpack passes it over
        weights = tuple(_four(row) for row in get["CASCADE.BBOX_REG_WEIGHTS"])
        cascade = CascadeConfig(ious=_floats(get["CASCADE.IOUS"]), delta_weights=weights)
    model = "cascade_mask" if cascade and get["MODE_MASK"] else "cascade" if cascade else "mask"
    model = model if cascade or get["MODE_MASK"] else "faster"
    depth, unusual = depth_and_blocks(blocks)
    return DetectorConfig(
        name=f"{model}_rcnn_r{depth}_{'fpn' if pyramid else 'c4'}",
        num_classes=_classes(shapes),
        input=InputConfig(
            min_size=get["PREPROC.TEST_SHORT_EDGE_SIZE"],
            max_size=int(size),
            resize="opencv",
            rescale="geometric",
            channel_order="bgr",
            pixel_mean=_three(get["PREPROC.PIXEL_MEAN"]),
            pixel_std=_three(get["PREPROC.PIXEL_STD"]),
            divisor=32 if pyramid else 0,
        ),
        backbone=ResNetConfig(
            depth=depth,
            blocks=unusual,
            stages=(2, 3, 4, 5) if pyramid else (2, 3, 4),
            stride_in_1x1=get["BACKBONE.STRIDE_1X1"],
            norm=_norm(get["BACKBONE.NORM"], source),
            trained_affine=get["BACKBONE.NORM"] == "FreezeBN" and not get["BACKBONE.FREEZE_AFFINE"],
            frozen_stages=get["BACKBONE.FREEZE_AT"],
            padding="tensorflow" if get["BACKBONE.TF_PAD_MODE"] else "align",
        ),
        fpn=_fpn(get) if pyramid else None,
        rpn=_rpn(get, most),
        box=_box(get, most),
        cascade=cascade,
        mask=_mask(get) if get["MODE_MASK"] else None,
    )


def _seen(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """The settings, in tensorpack's words, that names and shapes give away."""
    pyramid, cascade = any(name.startswith("fpn/") for name in shapes), "cascade_rcnn_stage1/outputs/class/W" in shapes
    blocks = [0, 0, 0, 0]
    for name in shapes:
        if found := re.match(r"group([0-3])/block(\d+)/", name):
            blocks[int(found[1])] = max(blocks[int(found[1])], int(found[2]) + 1)
    masks = "maskrcnn/conv/W" in shapes
    seen: dict[str, Any] = {"MODE_FPN": pyramid, "MODE_MASK": masks, "BACKBONE.RESNET_NUM_BLOCKS": blocks}
    if 0 in blocks:
        raise ValueError(f"{source} looks like tensorpack's, but its ResNet has stages of {blocks} blocks")
    if "conv0/gn/gamma" in shapes:
        seen["BACKBONE.NORM"] = "GN"
    elif "conv0/bn/gamma" not in shapes:
        seen["BACKBONE.NORM"] = "None"
    if masks:
        seen["MRCNN.HEAD_DIM"] = shapes.get("maskrcnn/deconv/W", (0, 0, 256))[2]
    if not pyramid:
        return seen | {"RPN.HEAD_DIM": shapes["rpn/conv0/W"][3]} if "rpn/conv0/W" in shapes else seen
    head = "cascade_rcnn_stage1/head" if cascade else "fastrcnn"
    convs = f"{head}/conv0/W" in shapes
    norm = "_gn" if f"{head}/gn0/gamma" in shapes else ""
    seen |= {
        "FPN.CASCADE": cascade,
        "FPN.NUM_CHANNEL": shapes.get("fpn/lateral_1x1_c2/W", (0, 0, 0, 256))[3],
        "FPN.NORM": "GN" if "fpn/gn_c2/gamma" in shapes else "None",
        "FPN.FRCNN_HEAD_FUNC": f"fastrcnn_4conv1fc{norm}_head" if convs else "fastrcnn_2fc_head",
        "FPN.FRCNN_FC_HEAD_DIM": shapes.get(f"{head}/fc/W" if convs else f"{head}/fc6/W", (0, 1024))[1],
    }
    if convs:
        seen["FPN.FRCNN_CONV_HEAD_DIM"] = shapes[f"{head}/conv0/W"][3]
    if masks:
        seen["FPN.MRCNN_HEAD_FUNC"] = f"maskrcnn_up4conv{'_gn' if 'maskrcnn/gn0/gamma' in shapes else ''}_head"
    return seen


def _classes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    rows = [shape[1] for name, shape in shapes.items() if re.fullmatch(r"(fastrcnn|cascade).*/class/W", name)]
    return rows[0] - 1 if rows else shapes["maskrcnn/conv/W"][3] if "maskrcnn/conv/W" in shapes else 1


def _norm(name: str, source: str) -> Norm:
    norms: dict[str, Norm] = {"FreezeBN": "frozen_bn", "SyncBN": "sync_bn", "GN": "gn", "None": "none"}
    if name not in norms:
        raise ValueError(f"{source}: BACKBONE.NORM={name}; tensorpack has {', '.join(norms)}")
    return norms[name]


def _fpn(get: Mapping[str, Any]) -> FPNConfig:
    normed = get["FPN.NORM"] == "GN"
    return FPNConfig(channels=get["FPN.NUM_CHANNEL"], norm="gn" if normed else "none", conv_bias=normed)


def _rpn(get: Mapping[str, Any], most: float) -> RPNConfig:
    pyramid = get["MODE_FPN"]
    level = pyramid and get["FPN.PROPOSAL_MODE"] == "Level"
    sizes = _floats(get["RPN.ANCHOR_SIZES"])
    width = 0 if pyramid else get["RPN.HEAD_DIM"]
    return RPNConfig(
        width=0 if width == 1024 else width,
        max_log_scale=most,
        smooth_l1_beta=1 / 9,
        anchors=AnchorConfig(
            sizes=tuple((size,) for size in sizes) if pyramid else (sizes,), ratios=_floats(get["RPN.ANCHOR_RATIOS"])
        ),
        sampling=SamplingConfig(
            positive_iou=get["RPN.POSITIVE_ANCHOR_THRESH"],
            negative_iou=get["RPN.NEGATIVE_ANCHOR_THRESH"],
            batch_size=get["RPN.BATCH_PER_IM"],
            positive_fraction=get["RPN.FG_RATIO"],
        ),
        legacy=LegacyRPNConfig(
            low_quality="overruled",
            straddle=0.0,
            crowd_ioa=float(get["RPN.CROWD_OVERLAP_THRESH"]),
            joint_levels=pyramid and not level,
        ),
        proposals=ProposalConfig(
            nms_iou=get["RPN.PROPOSAL_NMS_THRESH"],
            pre_nms_train=get["RPN.TRAIN_PER_LEVEL_NMS_TOPK" if level else "RPN.TRAIN_PRE_NMS_TOPK"],
            pre_nms=get["RPN.TEST_PER_LEVEL_NMS_TOPK" if level else "RPN.TEST_PRE_NMS_TOPK"],
            post_nms_train=get["RPN.TRAIN_PER_LEVEL_NMS_TOPK" if level else "RPN.TRAIN_POST_NMS_TOPK"],
            post_nms=get["RPN.TEST_PER_LEVEL_NMS_TOPK" if level else "RPN.TEST_POST_NMS_TOPK"],
            min_size=float(get["RPN.MIN_SIZE"]) or -1.0,  # 0 removes nothing, not even proposals without area
        ),
    )


def _box(get: Mapping[str, Any], most: float) -> BoxHeadConfig:
    pyramid, head = get["MODE_FPN"], get["FPN.FRCNN_HEAD_FUNC"]
    convs, normed = "4conv1fc" in head, head.endswith("_gn_head")
    return BoxHeadConfig(
        trunk="fc" if pyramid else "res5",
        convs=4 if pyramid and convs else 0,
        conv_width=get["FPN.FRCNN_CONV_HEAD_DIM"],
        norm="gn" if pyramid and normed else "none",
        norm_after_relu=pyramid and normed,
        fcs=1 if pyramid and convs else 2,
        fc_width=get["FPN.FRCNN_FC_HEAD_DIM"],
        class_agnostic=bool(get["FPN.CASCADE"]) and pyramid,
        delta_weights=_four(get["FRCNN.BBOX_REG_WEIGHTS"]),
        max_log_scale=most,
        score_threshold=get["TEST.RESULT_SCORE_THRESH"],
        pooler=PoolerConfig(size=7 if pyramid else 14, sampling_ratio=2),
        sampling=SamplingConfig(
            positive_iou=get["FRCNN.FG_THRESH"],
            batch_size=get["FRCNN.BATCH_PER_IM"],
            positive_fraction=get["FRCNN.FG_RATIO"],
        ),
        selection=SelectionConfig(nms_iou=get["TEST.FRCNN_NMS_THRESH"], max_detections=get["TEST.RESULTS_PER_IM"]),
    )


def _mask(get: Mapping[str, Any]) -> MaskHeadConfig:
    pyramid = get["MODE_FPN"]
    normed = pyramid and get["FPN.MRCNN_HEAD_FUNC"].endswith("_gn_head")
    return MaskHeadConfig(
        trunk="convs" if pyramid else "res5",
        convs=4 if pyramid else 0,
        width=get["MRCNN.HEAD_DIM"],
        norm="gn" if normed else "none",
        norm_after_relu=normed,
        target="sampled_bitmap",
        paste="accurate" if get["MRCNN.ACCURATE_PASTE"] else "rounded",
        pooler=PoolerConfig(size=14, sampling_ratio=2),
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = _floats(values)
    return blue, green, red


def _four(values: Any) -> tuple[float, float, float, float]:
    x, y, width, height = _floats(values)
    return x, y, width, height
