"""Detectron2's checkpoints: R-50 and R-101, C4 and FPN, Faster and Mask R-CNN.

Names map one to one; arrays are taken as they are (background last, class-major boxes, dx dy dw dh: our conventions are
theirs). What a file does not say, its YAML does (detectron2_yaml.py); without one, the zoo's own settings are assumed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.weights.converted import Converted, class_names, few, require_fit
from rcnn.weights.detectron2_yaml import config_of, read_settings

# (theirs, ours); tried in order, the whole name must match
NAMES = (
    (r"backbone\.bottom_up\.((?:stem|res\d)\..+)", r"backbone.\1"),
    (r"backbone\.fpn_(lateral|output)(\d\..+)", r"fpn.\1\2"),
    (r"(backbone\.(?:stem|res\d)\..+)", r"\1"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)", r"rpn.convs.\1.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", r"rpn.deltas.\1"),
    (r"roi_heads\.(res5\..+)", r"box_head.features.\1"),
    (r"roi_heads\.box_head\.(fc\d\..+)", r"box_head.features.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.scores.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", r"mask_head.features.conv\1.\2"),
    (r"roi_heads\.mask_head\.deconv\.(.+)", r"mask_head.deconv.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.+)", r"mask_head.logits.\1"),
)
IDLE = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
# what a name says of a network that is none of ours
OTHERS = (
    (r"roi_heads\.box_predictor\.\d\.", "a cascade"),
    (r"roi_heads\.keypoint_head\.", "a keypoint head"),
    (r"sem_seg_head\.", "a panoptic or semantic head"),
    (r"(head\.(cls|bbox)_subnet\.)", "RetinaNet"),
    (r"roi_heads\.box_head\.conv\d", "convolutions in the box head"),
    (r".*\.(conv2_offset|offset)\.", "deformable convolutions"),
)
DEPTHS = {6: 50, 23: 101}  # blocks of res4


def is_detectron2(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a Detectron2 detector."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in names)


def rename(name: str) -> str:
    """Our name for Detectron2's; a ValueError for one that is not known."""
    for theirs, ours in NAMES:
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    raise ValueError(f"Detectron2's tensor {name!r} has no counterpart here")


def from_detectron2(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """Detectron2's `state` with the settings of its YAML `config_file`; without one, those of its zoo.

    Raises ValueError that names `source` and what of the network or of the settings we do not have.
    """
    source = source or "the state dict"
    for pattern, what in OTHERS:
        if found := [name for name in state if re.match(pattern, name)]:
            raise ValueError(f"{source} has {what} ({found[0]}), which this version does not convert")
    kept = {name: value for name, value in state.items() if not IDLE.fullmatch(name)}
    unknown = [name for name in kept if not any(re.fullmatch(theirs, name) for theirs, _ in NAMES)]
    if unknown:
        raise ValueError(
            f"{source} looks like Detectron2's, but has tensors without a counterpart here: {few(unknown)}"
        )
    assumed = _zoo_settings(kept, source)
    settings = assumed if config_file is None else read_settings(Path(config_file))
    config = config_of(settings, str(config_file or source))
    ours = {rename(name): value for name, value in kept.items()}
    if isinstance(config.backbone, ResNetConfig) and config.backbone.norm == "frozen_bn":
        ours = {name: value for name, value in ours.items() if not name.endswith("num_batches_tracked")}
    require_fit(config, ours, source)
    classes = class_names(config.num_classes)
    if config_file is not None:
        said = f"settings of {Path(config_file).name}"
    else:
        said = (
            "no settings given, so those of Detectron2's zoo: BGR, MSRA's stride in the 1x1, 800 to 1333 pixels; "
            "give its YAML with --config if it differs"
        )
    report = f"Detectron2 {config.name}, {len(ours)} tensors, {config.num_classes} classes; {said}"
    return Converted(config=config, state=ours, classes=classes, report=report)


def to_detectron2(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The names Detectron2 gives to our `state`: the way back."""
    theirs = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            new = f"backbone.bottom_up.{rest}" if config.fpn is not None else name
        elif part == "fpn":
            new = f"backbone.fpn_{rest}"
        elif part == "rpn":
            new = re.sub(r"convs\.0\.", "conv.", rest) if config.rpn.convs == 1 else rest.replace("convs.", "conv.conv")
            new = new.replace("objectness.", "objectness_logits.").replace("deltas.", "anchor_deltas.")
            new = f"proposal_generator.rpn_head.{new}"
        elif part == "box_head":
            new = rest.replace("features.res5.", "res5.").replace("features.fc", "box_head.fc")
            new = new.replace("scores.", "box_predictor.cls_score.").replace("deltas.", "box_predictor.bbox_pred.")
            new = f"roi_heads.{new}"
        else:
            new = rest.replace("features.conv", "mask_fcn").replace("logits.", "predictor.")
            new = f"roi_heads.mask_head.{new}"
        theirs[new] = value
    return theirs


def _zoo_settings(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The settings, in Detectron2's words, under which its zoo trains a network of these tensors."""
    names = list(state)
    trunk = "backbone.bottom_up." if any(name.startswith("backbone.bottom_up.") for name in names) else "backbone."
    blocks = {name.split(".")[-4 if ".norm." in name else -3] for name in names if name.startswith(f"{trunk}res4.")}
    if len(blocks) not in DEPTHS:
        raise ValueError(f"{source} has a ResNet with {len(blocks)} blocks in res4; known: 6 (R-50) and 23 (R-101)")
    if not any(name.endswith("running_mean") for name in names):
        raise ValueError(f"{source} has norms without statistics (group norm?), which this version does not convert")
    settings: dict[str, Any] = {
        "MODEL.RESNETS.DEPTH": DEPTHS[len(blocks)],
        "MODEL.MASK_ON": any(name.startswith("roi_heads.mask_head.") for name in names),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(state["roi_heads.box_predictor.cls_score.weight"]) - 1,
    }
    if any(name.startswith("roi_heads.res5.") for name in names):
        return settings
    if trunk == "backbone.":
        raise ValueError(
            f"{source} has neither a pyramid nor res5 in its heads (DC5?), which this version does not convert"
        )
    return settings | {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    }
