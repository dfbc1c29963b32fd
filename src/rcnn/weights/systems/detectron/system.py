"""Detectron's (Caffe2) checkpoints, `model_final.pkl`: Faster, Mask and Keypoint R-CNN and the RPN alone.

The file holds its blobs and the text of all its settings. What that network did differently (boxes that end on their
last pixel, rounded anchors, RoIAlign without the half pixel) comes along in the config; detectron_names.py says what
happens to the rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from rcnn.weights.systems.converted import Converted, require_fit, unplaced
from rcnn.weights.systems.detectron.config import config_of
from rcnn.weights.systems.detectron.names import REFUSED, in_our_order, sorted_blobs, with_statistics
from rcnn.weights.systems.detectron.settings import not_kept, read_text, read_yaml
from rcnn.weights.systems.detectron2.config import classes_of

ZOO = "Detectron's zoo"
# dimensions of the weights whose shapes are looked at
SHAPES = {"res2_0_branch2b_w": 4, "cls_score_w": 2, "bbox_pred_w": 2, "fc6_w": 2, "head_conv1_w": 4,
          "mask_fcn_logits_w": 4, "kps_score_lowres_w": 4, "conv_fcn1_w": 4}  # fmt: skip
BLOCKS: dict[tuple[int, ...], Literal[50, 101, 152]] = {(3, 4, 6): 50, (3, 4, 23): 101, (3, 8, 36): 152}


def recognises(names: Collection[str]) -> bool:
    """Whether blobs of these names are of a Detectron detector (its ImageNet files are no detectors)."""
    found = set(names)
    return "conv1_w" in found and any(name.startswith(("conv_rpn", "cls_score_w", "retnet_")) for name in found)


def from_detectron(
    state: Mapping[str, Tensor],
    config_file: str | Path | None = None,
    source: str = "",
    extras: Mapping[str, Any] | None = None,
) -> Converted:
    """Detectron's blobs with the settings of its YAML `config_file`, else with those in the file (`extras["cfg"]`),
    else with those of its zoo for such blobs.

    Raises ValueError that names `source` and what of the network or of the settings we do not have.
    """
    source = source or "the blobs"
    for pattern, what in REFUSED:
        if found := [name for name in state if re.match(pattern, name)]:
            raise ValueError(f"{source} has {what} ({found[0]})")
    if not any(name.startswith("conv_rpn") for name in state):
        raise ValueError(
            f"{source} is Fast R-CNN on proposals from a file: it has no RPN, and cannot find boxes by itself; want an "
            "end-to-end model"
        )
    names, left, unknown = sorted_blobs(state)
    if unknown:
        raise ValueError(f"{source} looks like Detectron's, but has {unplaced(unknown)}")
    depth = _depth(names, source)
    text = (extras or {}).get("cfg")
    assumed: tuple[str, ...] = ()
    if config_file is not None:
        settings, said = read_yaml(Path(config_file)), f"settings of {Path(config_file).name}"
    elif isinstance(text, str) and text.strip():
        settings, said = read_text(text, source), "settings as in the file"
    else:
        try:
            settings, assumed = settings_of_blobs(state)
        except (KeyError, StopIteration) as error:
            raise ValueError(f"{source} looks like Detectron's, but {error} is missing: is the file whole?") from error
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        said = "no settings in the file, so those of its zoo; give its YAML with --config if it differs"
    config = config_of(settings, depth=depth, source=str(config_file or source))
    c4 = config.fpn is None
    if c4 and config.proposals_only:  # what training began with, and an RPN on res4 does not use
        idle = {name for name, ours in names.items() if ours.startswith("backbone.res5.")}
        left += [name for name in names if name in idle]
        names = {name: ours for name, ours in names.items() if name not in idle}
    ours = in_our_order(
        {new: state[name] for name, new in names.items()},
        sizes=len(config.rpn.anchors.sizes[0]),
        ratios=len(config.rpn.anchors.ratios),
        shared=c4,
    )
    if "conv1_gn_s" not in state:
        ours = with_statistics(ours)
    require_fit(config, ours, source)
    report = f"Detectron (Caffe2) {config.name}, {len(names)} blobs, {config.num_classes} classes; {said}"
    return Converted(
        config=config,
        state=ours,
        classes=classes_of(settings.get("TRAIN.DATASETS", ()), config),
        report=report,
        system="Detectron",
        assumed=(*assumed, *not_kept(settings)),
        left=tuple(left),
    )


def settings_of_blobs(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings, in Detectron's words, under which its zoo trains a network of these blobs, and what was assumed."""
    fpn = any(name.startswith("fpn_inner_") for name in state)
    group, heads = "conv1_gn_s" in state, "cls_score_w" in state
    for name, value in ((name, state[name]) for name in SHAPES if name in state):
        if value.ndim != SHAPES[name] or 0 in value.shape:
            raise ValueError(f"{name} is {tuple(value.shape)}; want {SHAPES[name]} dimensions, none of them empty")
    middle = state["res2_0_branch2b_w"]
    groups = len(middle) // middle.shape[1]
    stride = "3x3" if group or groups > 1 else "1x1"
    settings: dict[str, Any] = {
        "MODEL.RPN_ONLY": not heads,
        "MODEL.FASTER_RCNN": heads,
        "FPN.FPN_ON": fpn,
        "FPN.USE_GN": any(name.startswith("fpn_") and name.endswith("_gn_s") for name in state),
        "RESNETS.NUM_GROUPS": groups,
        "RESNETS.WIDTH_PER_GROUP": middle.shape[1],
        "RESNETS.STRIDE_1X1": stride == "1x1",
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
        settings["FPN.DIM"] = len(state[next(name for name in state if re.fullmatch(r"fpn_res2_.*_w", name))])
    if heads:
        settings |= _heads(state, fpn)
    assumed = [
        f"stride in the {stride} convolutions: {ZOO}",
        f"images of 800 to 1333 pixels, BGR, less 102.9801, 115.9465, 122.7717: {ZOO}",
        f"anchors of 32 to 512 pixels in the ratios 0.5, 1 and 2: {ZOO}",
        f"{settings['TEST.RPN_POST_NMS_TOP_N']} proposals an image, NMS at 0.7: {ZOO}",
    ]
    if heads:
        assumed.append(f"RoIAlign with {'two samples a side of a bin' if fpn else 'as many samples as fit'}: {ZOO}")
        assumed.append(f"detections above 0.05, NMS at 0.5: {ZOO}")
    return settings, tuple(assumed)


def _heads(state: Mapping[str, Tensor], fpn: bool) -> dict[str, Any]:
    classes = len(state["cls_score_w"])
    box = "ResNet.add_ResNet_roi_conv5_head"
    convs = sum(bool(re.fullmatch(r"head_conv\d+_w", name)) for name in state)
    if fpn and convs:
        box = f"fast_rcnn_heads.add_roi_Xconv1fc_{'gn_' if 'head_conv1_gn_s' in state else ''}head"
    elif fpn:
        box = "fast_rcnn_heads.add_roi_2mlp_head"
    settings: dict[str, Any] = {
        "MODEL.NUM_CLASSES": classes,
        "MODEL.CLS_AGNOSTIC_BBOX_REG": len(state["bbox_pred_w"]) == 8 and classes > 2,
        "FAST_RCNN.ROI_BOX_HEAD": box,
    }
    if "fc6_w" in state:
        settings["FAST_RCNN.MLP_HEAD_DIM"] = len(state["fc6_w"])
    if convs:
        settings["FAST_RCNN.NUM_STACKED_CONVS"] = convs
        settings["FAST_RCNN.CONV_HEAD_DIM"] = len(state["head_conv1_w"])
    if "mask_fcn_logits_w" in state:
        stacked = sum(bool(re.fullmatch(r"(_\[mask\]_|_mask_)fcn\d+_w", name)) for name in state)
        kind = {0: "v0upshare", 2: "v1up", 4: "v1up4convs"}.get(stacked, f"of {stacked} convolutions")
        group = "_gn" if "_mask_fcn1_gn_s" in state or "_[mask]_fcn1_gn_s" in state else ""
        settings |= {
            "MODEL.MASK_ON": True,
            "MRCNN.ROI_MASK_HEAD": f"mask_rcnn_heads.mask_rcnn_fcn_head_{kind}{group}",
            "MRCNN.DIM_REDUCED": state["mask_fcn_logits_w"].shape[1],
            "MRCNN.CLS_SPECIFIC_MASK": len(state["mask_fcn_logits_w"]) > 1,
            "MRCNN.DILATION": 1,
            "MRCNN.ROI_XFORM_RESOLUTION": 14,
            "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2 if fpn else 0,
        }
    if "kps_score_lowres_w" in state:
        settings |= {
            "MODEL.KEYPOINTS_ON": True,
            "KRCNN.NUM_KEYPOINTS": state["kps_score_lowres_w"].shape[1],
            "KRCNN.NUM_STACKED_CONVS": sum(bool(re.fullmatch(r"conv_fcn\d+_w", name)) for name in state),
            "KRCNN.CONV_HEAD_DIM": len(state["conv_fcn1_w"]),
            "KRCNN.ROI_XFORM_RESOLUTION": 14,
            "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
        }
    return settings


def _depth(names: Mapping[str, str], source: str) -> Literal[50, 101, 152]:
    """How many layers the ResNet has, by its blocks."""
    counts = tuple(
        len({ours.split(".")[2] for ours in names.values() if ours.startswith(f"backbone.res{stage}.")})
        for stage in (2, 3, 4)
    )
    if counts not in BLOCKS:
        raise ValueError(
            f"{source} has a ResNet of {', '.join(map(str, counts))} blocks in res2 to res4; known: 3, 4, 6 (R-50), "
            "3, 4, 23 (R-101), 3, 8, 36 (R-152)"
        )
    return BLOCKS[counts]
