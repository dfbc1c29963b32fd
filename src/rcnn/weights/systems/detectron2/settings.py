"""Detectron2's settings: which there are, what each is where a file does not say, and how its YAML is read.

Every key is accounted for. One that would change predictions and is not ours is an error; one that says how a network
was trained, in a way that ours is not, or that we do not know, is listed for the user (`not_kept`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rcnn.weights.systems.detectron2.zoo import base_settings

# what we read, and the value Detectron2 0.6 takes where a file does not say (its config/defaults.py)
DEFAULTS: dict[str, Any] = {
    "INPUT.FORMAT": "BGR",
    "INPUT.MASK_FORMAT": "polygon",
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.KEYPOINT_ON": False,
    "MODEL.MASK_ON": False,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": [
        [10.0, 10.0, 5.0, 5.0],
        [20.0, 20.0, 10.0, 10.0],
        [30.0, 30.0, 15.0, 15.0],
    ],
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [0.5, 0.6, 0.7],
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 256,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
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
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [512] * 8,
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": 1.0,
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.RPN.CONV_DIMS": [-1],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.KEYPOINT_OKS_SIGMAS": [],
}

# what we do one way only: any other value would give other predictions
ONLY: dict[str, Any] = {
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False] * 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "KRCNNConvDeconvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.RPN.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "VERSION": 2,
}

# what says how a network was trained, or is asked for in another place here: predictions are the same whatever it is
TRAINING: dict[str, tuple[Any, str]] = {
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("smooth_l1", "trained further, boxes are learnt by smooth L1"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False, "trained further, masks are learnt on the proposals"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False, "trained further, all classes count in every image"),
    "MODEL.ROI_HEADS.IOU_LABELS": ([0, 1], "trained further, regions are objects or background"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("smooth_l1", "trained further, proposals are learnt by smooth L1"),
    "MODEL.RPN.IOU_LABELS": ([0, -1, 1], "trained further, anchors between the thresholds are not used"),
    "TEST.AUG.ENABLED": (False, "test-time augmentation is asked for when predicting, not kept with the weights"),
}

# beginnings of keys that say nothing of these networks: schedules, data, parts that ONLY or DEFAULTS keep switched off
IDLE = (
    "CUDNN_BENCHMARK", "DATALOADER.", "DATASETS.", "FLOAT32_PRECISION", "GLOBAL.", "OUTPUT_DIR", "SEED", "SOLVER.",
    "VIS_PERIOD", "INPUT.CROP.", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN", "INPUT.RANDOM_FLIP",
    "MODEL.ANCHOR_GENERATOR.ANGLES", "MODEL.DEVICE", "MODEL.PANOPTIC_FPN.", "MODEL.RETINANET.",
    "MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS", "MODEL.ROI_BOX_HEAD.FED_LOSS_",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "MODEL.SEM_SEG_HEAD.", "MODEL.WEIGHTS", "TEST.AUG.",
    "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN.",
)  # fmt: skip


def read_settings(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a YAML file and of its `_BASE_`s, flat: {"MODEL.RPN.NMS_THRESH": 0.7}.

    Raises FileNotFoundError or ValueError that names the file and what is wrong; `seen` are the files that build on it.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: want Detectron2's YAML (its config.yaml lies in OUTPUT_DIR), or a name of its zoo "
            "such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
        )
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
        known = None if file.exists() else base_settings(str(base))
        if known is not None:
            return dict(known) | flat(content)
        if not file.exists():
            raise FileNotFoundError(
                f"{path} builds on {base}, and {file} does not exist: put it there, or give the whole config.yaml that "
                "training wrote to its OUTPUT_DIR"
            )
        if file.resolve() in (path.resolve(), *seen):
            raise ValueError(f"{path} names itself as its _BASE_")
        settings = read_settings(file, (path.resolve(), *seen))
    return settings | flat(content)


def require_known(settings: Mapping[str, Any], source: str) -> None:
    """A ValueError that names `source` and the first setting which we do another way, or which is of the wrong kind."""
    for key, value in settings.items():
        if key in ONLY:
            if listed(value) != ONLY[key]:
                raise ValueError(f"{source}: {key}={value!r} is not supported; want {ONLY[key]!r}")
        elif key in DEFAULTS:
            wanted = DEFAULTS[key]
            kinds = (int, float) if type(wanted) is float else (type(wanted),)
            if type(listed(value)) not in kinds:
                raise ValueError(f"{source}: {key}={value!r} is of the wrong kind; want one such as {wanted!r}")


def not_kept(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each of the settings that we did not keep, which leave predictions as they are or are unknown."""
    lines = []
    for key, value in settings.items():
        if key in TRAINING:
            usual, meaning = TRAINING[key]
            if listed(value) != usual:
                lines.append(f"{key}={value!r} is not kept: {meaning}")
        elif key == "MODEL.RPN.BOUNDARY_THRESH" and value >= 0:
            lines.append(
                f"{key}={value!r}: trained further, anchors outside are no object's best either, and those that end on "
                "the border are used"
            )
        elif key not in DEFAULTS and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is no setting of Detectron2 that we know, and plays no part")
    return tuple(lines)


def flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; tuples written as text, as these files have them, are read.

    So are numbers such as 1e-4, which YAML takes for words for want of a point, and these systems for numbers.
    """
    settings: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            settings |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, str) and value[:1] in ("(", "["):
            try:
                settings[f"{prefix}{key}"] = ast.literal_eval(value)
            except (ValueError, SyntaxError) as error:
                raise ValueError(f"{prefix}{key}={value!r} cannot be read as a list of values") from error
        else:
            settings[f"{prefix}{key}"] = float(value) if _is_exponent(value) else value
    return settings


def _is_exponent(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value) is not None


def listed(value: Any) -> Any:
    """Tuples as lists, all the way down: a YAML file has either."""
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value
