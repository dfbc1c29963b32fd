"""Detectron's (Caffe2) checkpoints, `model_final.pkl`: Faster, Mask and Keypoint R-CNN and the RPN alone.

The file holds the blobs and the text of all settings. What that network does differently (boxes that include their last
pixel, rounded anchors, RoIAlign without the half pixel) is kept in the config.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron.config import config_of
from rcnn.weights.systems.detectron.names import OTHERS, RULES, below_the_head, in_our_layout, with_statistics
from rcnn.weights.systems.detectron.settings import not_kept, read_yaml, yaml_settings
from rcnn.weights.systems.detectron2.config import classes_of
from rcnn.weights.systems.resnets import blocks_of, known_depth
from rcnn.weights.systems.settings import SettingsSource, existing_file, parse_settings
from rcnn.weights.systems.system import Plan, System

ZOO = "Detectron's model zoo"
Shapes = Mapping[str, tuple[int, ...]]
# number of dimensions of the weights that describe the network
DIMENSIONS = {"res2_0_branch2b_w": 4, "cls_score_w": 2, "bbox_pred_w": 2, "fc6_w": 2, "head_conv1_w": 4,
              "mask_fcn_logits_w": 4, "kps_score_lowres_w": 4, "conv_fcn1_w": 4}  # fmt: skip


def recognises(names: Collection[str]) -> bool:
    """Whether blobs of these names belong to a Detectron detector (its ImageNet files are backbones)."""
    found = set(names)
    return "conv1_w" in found and any(name.startswith(("conv_rpn", "cls_score_w", "retnet_")) for name in found)


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of Detectron's blobs: with the settings given (YAML or KEY=VALUE), of the file, or of the zoo."""
    source = found.source
    for pattern, what in OTHERS:
        if others := [name for name in found.state if re.match(pattern, name)]:
            raise ValueError(f"{source} has {what} ({others[0]}), which rcnn does not support")
    if not any(name.startswith("conv_rpn") for name in found.state):
        raise ValueError(
            f"{source} is Fast R-CNN on proposals from a file: it has no RPN and cannot find boxes by itself; "
            "expected an "
            "end-to-end model"
        )
    placed = RULES.place(found.state, source, SYSTEM.name)
    names, skipped = placed.ours, list(placed.skipped)
    depth = known_depth(blocks_of(names.values(), stages=(2, 3, 4)), source)
    theirs, summary, assumed = _settings(found, settings)
    config = config_of(theirs, depth=depth, source=source if settings is None else str(settings)[:200])
    if config.fpn is None:
        if config.proposals_only:  # from the ImageNet weights; an RPN on res4 does not use it
            skipped += [name for name, ours in names.items() if ours.startswith("backbone.res5.")]
            names = {name: ours for name, ours in names.items() if not ours.startswith("backbone.res5.")}
        names = below_the_head(names)
    return Plan(
        config=config,
        names=names,
        tensor=in_our_layout,
        complete=lambda state, config: with_statistics(state, found.state.keys()),
        classes=classes_of(theirs.get("TRAIN.DATASETS", ()), config),
        summary=summary,
        assumed=assumed,
        notes=not_kept(theirs),
        skipped=tuple(skipped),
    )


def _settings(found: Found, given: SettingsSource) -> tuple[dict[str, Any], str, tuple[Assumption, ...]]:
    """Detectron's settings for a file, where they come from, and what is assumed."""
    path = existing_file(given) if given is not None else None
    words = {} if given is None or path is not None else parse_settings(str(given), "--config")
    if given is not None and not words:
        return read_yaml(given), f"settings of {path.name if path else given}", ()
    text = found.extras.get("cfg")
    if isinstance(text, str) and text.strip():
        return yaml_settings(text, found.source) | words, "settings of the file", ()
    theirs, assumed = settings_of_blobs({name: found.shape(name) for name in found.state}, found.source)
    return (
        theirs | words,
        "no settings in the file: give its YAML with --config if it differs from the model zoo's",
        assumed,
    )


def settings_of_blobs(shapes: Shapes, source: str) -> tuple[dict[str, Any], tuple[Assumption, ...]]:
    """The settings with which Detectron's zoo trains a network of such blobs, and what was assumed."""
    for name, dims in DIMENSIONS.items():
        if name in shapes and (len(shapes[name]) != dims or 0 in shapes[name]):
            raise ValueError(
                f"{source}: {name} has shape {shapes[name]}; expected {dims} dimensions, none of them empty"
            )
    fpn = any(name.startswith("fpn_inner_") for name in shapes)
    group, heads = "conv1_gn_s" in shapes, "cls_score_w" in shapes
    out, inside = shapes["res2_0_branch2b_w"][:2]
    stride_in_1x1 = not group and out == inside
    settings: dict[str, Any] = {
        "MODEL.RPN_ONLY": not heads,
        "MODEL.FASTER_RCNN": heads,
        "FPN.FPN_ON": fpn,
        "FPN.USE_GN": any(name.startswith("fpn_") and name.endswith("_gn_s") for name in shapes),
        "RESNETS.NUM_GROUPS": out // inside,
        "RESNETS.WIDTH_PER_GROUP": inside,
        "RESNETS.STRIDE_1X1": stride_in_1x1,
        "RESNETS.TRANS_FUNC": "bottleneck_gn_transformation" if group else "bottleneck_transformation",
        "RPN.SIZES": [32, 64, 128, 256, 512],
        "TEST.SCALE": 800,
        "TEST.MAX_SIZE": 1333,
        "TEST.NMS": 0.5,
        "TEST.RPN_PRE_NMS_TOP_N": 1000 if fpn else 6000 if heads else 12000,
        "TEST.RPN_POST_NMS_TOP_N": 1000 if heads else 2000,
        "TRAIN.RPN_PRE_NMS_TOP_N": 2000 if fpn and heads else 12000,
        "TRAIN.BATCH_SIZE_PER_IM": 512,
        "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
        "FAST_RCNN.ROI_XFORM_RESOLUTION": 7 if fpn else 14,
        "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2 if fpn else 0,
    }
    if fpn:
        lateral = next((name for name in shapes if re.fullmatch(r"fpn_res2_.*_w", name)), "fpn_res2_2_sum_w")
        settings["FPN.DIM"] = shapes[lateral][0]
    if heads:
        settings |= _heads(shapes, fpn)
    assumed = {
        f"stride in the {'1x1' if stride_in_1x1 else '3x3'} convolutions": ("backbone.stride_in_1x1",),
        "image size": ("input.min_size", "input.max_size"),
        "pixels": ("input.channel_order", "input.pixel_mean"),
        "anchors": ("rpn.anchors.sizes", "rpn.anchors.ratios"),
        "proposals": ("rpn.proposals.post_nms", "rpn.proposals.nms_iou"),
    }
    if heads:
        assumed["box pooling"] = ("box.pooler.kind", "box.pooler.sampling_ratio")
        assumed["detections"] = ("box.score_threshold", "box.selection.nms_iou")
    return settings, tuple(Assumption(what, ZOO, keys) for what, keys in assumed.items())


def _heads(shapes: Shapes, fpn: bool) -> dict[str, Any]:
    classes = shapes["cls_score_w"][0]
    convs = sum(bool(re.fullmatch(r"head_conv\d+_w", name)) for name in shapes)
    box = "ResNet.add_ResNet_roi_conv5_head"
    if fpn:
        normed = "gn_" if "head_conv1_gn_s" in shapes else ""
        box = f"fast_rcnn_heads.add_roi_{f'Xconv1fc_{normed}head' if convs else '2mlp_head'}"
    settings: dict[str, Any] = {
        "MODEL.NUM_CLASSES": classes,
        "MODEL.CLS_AGNOSTIC_BBOX_REG": shapes["bbox_pred_w"][0] == 8 and classes > 2,
        "FAST_RCNN.ROI_BOX_HEAD": box,
    }
    if "fc6_w" in shapes:
        settings["FAST_RCNN.MLP_HEAD_DIM"] = shapes["fc6_w"][0]
    if convs:
        settings["FAST_RCNN.NUM_STACKED_CONVS"] = convs
        settings["FAST_RCNN.CONV_HEAD_DIM"] = shapes["head_conv1_w"][0]
    if "mask_fcn_logits_w" in shapes:
        stacked = sum(bool(re.fullmatch(r"(_\[mask\]_|_mask_)fcn\d+_w", name)) for name in shapes)
        kind = {0: "v0upshare", 2: "v1up", 4: "v1up4convs"}.get(stacked, f"of {stacked} convolutions")
        group = "_gn" if "_mask_fcn1_gn_s" in shapes or "_[mask]_fcn1_gn_s" in shapes else ""
        settings |= {
            "MODEL.MASK_ON": True,
            "MRCNN.ROI_MASK_HEAD": f"mask_rcnn_heads.mask_rcnn_fcn_head_{kind}{group}",
            "MRCNN.DIM_REDUCED": shapes["mask_fcn_logits_w"][1],
            "MRCNN.CLS_SPECIFIC_MASK": shapes["mask_fcn_logits_w"][0] > 1,
            "MRCNN.DILATION": 1,
            "MRCNN.ROI_XFORM_RESOLUTION": 14,
            "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2 if fpn else 0,
        }
    if "kps_score_lowres_w" in shapes:
        settings |= {
            "MODEL.KEYPOINTS_ON": True,
            "KRCNN.NUM_KEYPOINTS": shapes["kps_score_lowres_w"][1],
            "KRCNN.NUM_STACKED_CONVS": sum(bool(re.fullmatch(r"conv_fcn\d+_w", name)) for name in shapes),
            "KRCNN.CONV_HEAD_DIM": shapes["conv_fcn1_w"][0],
            "KRCNN.ROI_XFORM_RESOLUTION": 14,
            "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
        }
    return settings


SYSTEM = System(
    name="Detectron",
    files=".pkl of Caffe2 blobs",
    settings="its YAML or KEY=VALUE",
    recognises=recognises,
    read=read,
)
