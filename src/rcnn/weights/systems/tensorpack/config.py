"""Builds our config from tensorpack's settings and the shapes of the tensors in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks
from rcnn.weights.systems.settings import Typed, field_of, same_settings, typed
from rcnn.weights.systems.tensorpack.settings import Settings

STRIDES = (
    "RPN.ANCHOR_STRIDE",
    "FPN.ANCHOR_STRIDES",
)  # only the defaults are supported: one cell of anchors per cell of the feature map
NORMS: dict[str, cfg.Norm] = {"FreezeBN": "frozen_bn", "SyncBN": "sync_bn", "GN": "gn", "None": "none"}


def config_of(shapes: Mapping[str, tuple[int, ...]], settings: Typed[Settings], source: str) -> DetectorConfig:
    """The config of a detector with tensors of these `shapes`; what they do not show is taken from `settings`.

    Raises ValueError that names `source` if settings are not supported or contradict the tensors.
    """
    settings.require_default(*STRIDES, source=source)
    seen = typed(Settings, _seen(shapes, source), source)
    tensors = {field_of(key): getattr(seen.values, field_of(key)) for key in seen.given}
    for key in settings.given & seen.given:
        given, found = getattr(settings.values, field_of(key)), tensors[field_of(key)]
        if given != found:
            raise ValueError(
                f"{source}: {key}={given!r} in the settings contradicts the tensors of the file, which have {found!r}"
            )
    theirs = replace(settings.values, **tensors)
    pyramid, blocks = theirs.mode_fpn, theirs.backbone_resnet_num_blocks
    size = theirs.preproc_max_size
    if pyramid:  # as tensorpack does when it starts: 1333 becomes 1344
        size = math.ceil(size / 32) * 32
    max_log_scale = math.log(size / 16)
    cascade = None
    if pyramid and theirs.fpn_cascade:  # without an FPN, tensorpack ignores it
        cascade = cfg.CascadeConfig()
    words = [word for word, there in (("cascade", cascade), ("mask", theirs.mode_mask)) if there] or ["faster"]
    depth, unusual = depth_and_blocks(blocks)
    config = DetectorConfig(
        name=f"{'_'.join(words)}_rcnn_r{depth}_{'fpn' if pyramid else 'c4'}",
        num_classes=_classes(shapes),
        input=cfg.InputConfig(
            max_size=int(size),
            resize="opencv",
            rescale="geometric",
            channel_order="bgr",
            pixel_mean=theirs.preproc_pixel_mean[::-1],
            pixel_std=theirs.preproc_pixel_std[::-1],
            divisor=32 if pyramid else 0,
        ),
        backbone=cfg.ResNetConfig(
            depth=depth,
            blocks=unusual,
            stages=(2, 3, 4, 5) if pyramid else (2, 3, 4),
            norm=NORMS[theirs.backbone_norm],
            trained_affine=theirs.backbone_norm == "FreezeBN" and not theirs.backbone_freeze_affine,
            padding="tensorflow" if theirs.backbone_tf_pad_mode else "align",
        ),
        fpn=cfg.FPNConfig(norm=NORMS[theirs.fpn_norm], conv_bias=theirs.fpn_norm == "GN") if pyramid else None,
        rpn=_rpn(theirs, max_log_scale),
        box=_box(theirs, max_log_scale),
        cascade=cascade,
        mask=_mask(theirs) if theirs.mode_mask else None,
    )
    return with_settings(config, same_settings(theirs, config))


def _seen(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, object]:
    """The settings of tensorpack that names and shapes show."""
    pyramid, cascade = any(name.startswith("fpn/") for name in shapes), "cascade_rcnn_stage1/outputs/class/W" in shapes
    blocks = blocks_of(shapes, r"group(\d)/block(\d+)/.+", (0, 1, 2, 3))
    masks = "maskrcnn/conv/W" in shapes
    seen: dict[str, object] = {"MODE_FPN": pyramid, "MODE_MASK": masks, "BACKBONE.RESNET_NUM_BLOCKS": blocks}
    if 0 in blocks:
        raise ValueError(
            f"{source} looks like tensorpack's, but its ResNet has stages of {list(blocks)} blocks; expected no 0"
        )
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
    """The number of classes, without background."""
    rows = [shape[1] for name, shape in shapes.items() if re.fullmatch(r"(fastrcnn|cascade).*/class/W", name)]
    if rows:
        return rows[0] - 1
    return shapes["maskrcnn/conv/W"][3] if "maskrcnn/conv/W" in shapes else 1


def _rpn(theirs: Settings, max_log_scale: float) -> cfg.RPNConfig:
    pyramid = theirs.mode_fpn
    level = pyramid and theirs.fpn_proposal_mode == "Level"
    sizes = theirs.rpn_anchor_sizes
    width = 0 if pyramid else theirs.rpn_head_dim
    return cfg.RPNConfig(
        width=0 if width == 1024 else width,
        max_log_scale=max_log_scale,
        smooth_l1_beta=1 / 9,
        anchors=cfg.AnchorConfig(sizes=tuple((size,) for size in sizes) if pyramid else (sizes,)),
        legacy=cfg.LegacyRPNConfig(
            low_quality="overruled",
            straddle=0.0,
            joint_levels=pyramid and not level,
        ),
        proposals=cfg.ProposalConfig(
            pre_nms_train=theirs.rpn_train_per_level_nms_topk if level else theirs.rpn_train_pre_nms_topk,
            pre_nms=theirs.rpn_test_per_level_nms_topk if level else theirs.rpn_test_pre_nms_topk,
            post_nms_train=theirs.rpn_train_per_level_nms_topk if level else theirs.rpn_train_post_nms_topk,
            post_nms=theirs.rpn_test_per_level_nms_topk if level else theirs.rpn_test_post_nms_topk,
            min_size=float(theirs.rpn_min_size) or -1.0,  # 0 removes nothing, not even proposals without area
        ),
    )


def _box(theirs: Settings, max_log_scale: float) -> cfg.BoxHeadConfig:
    pyramid, head = theirs.mode_fpn, theirs.fpn_frcnn_head_func
    convs, normed = "4conv1fc" in head, head.endswith("_gn_head")
    return cfg.BoxHeadConfig(
        trunk="fc" if pyramid else "res5",
        convs=4 if pyramid and convs else 0,
        norm="gn" if pyramid and normed else "none",
        norm_after_relu=pyramid and normed,
        fcs=1 if pyramid and convs else 2,
        class_agnostic=bool(theirs.fpn_cascade) and pyramid,
        max_log_scale=max_log_scale,
        pooler=cfg.PoolerConfig(size=7 if pyramid else 14, sampling_ratio=2),
    )


def _mask(theirs: Settings) -> cfg.MaskHeadConfig:
    pyramid = theirs.mode_fpn
    normed = pyramid and theirs.fpn_mrcnn_head_func.endswith("_gn_head")
    return cfg.MaskHeadConfig(
        trunk="convs" if pyramid else "res5",
        convs=4 if pyramid else 0,
        norm="gn" if normed else "none",
        norm_after_relu=normed,
        target="sampled_bitmap",
        paste="accurate" if theirs.mrcnn_accurate_paste else "rounded",
        pooler=cfg.PoolerConfig(size=14, sampling_ratio=2),
    )
