"""Detectron2's settings, their defaults, and how its YAML is read.

Every key is accounted for. A key that changes predictions and is not supported is an error. A key that only describes
training, or that is unknown, is reported (`not_kept`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rcnn.weights.systems.detectron2.zoo import base_settings
from rcnn.weights.systems.settings import existing_file, plain_yaml, read_text

# settings that we use, with the defaults of Detectron2 0.6 (config/defaults.py)
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

# settings with one supported value: any other would change predictions
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

# settings that do not change predictions: (usual value, what rcnn does)
TRAINING: dict[str, tuple[Any, str]] = {
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("smooth_l1", "further training uses the smooth L1 loss for boxes"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False, "further training samples masks from the proposals"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False, "further training uses the loss of all classes in every image"),
    "MODEL.ROI_HEADS.IOU_LABELS": ([0, 1], "further training labels regions positive or negative"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("smooth_l1", "further training uses the smooth L1 loss for proposals"),
    "MODEL.RPN.IOU_LABELS": ([0, -1, 1], "further training ignores anchors between the thresholds"),
    "TEST.AUG.ENABLED": (False, "test-time augmentation is an option of predict and eval"),
}

# prefixes of keys that do not describe the network: schedules, data, parts that are switched off
IDLE = (
    "CUDNN_BENCHMARK", "DATALOADER.", "DATASETS.", "FLOAT32_PRECISION", "GLOBAL.", "OUTPUT_DIR", "SEED", "SOLVER.",
    "VIS_PERIOD", "INPUT.CROP.", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN", "INPUT.RANDOM_FLIP",
    "MODEL.ANCHOR_GENERATOR.ANGLES", "MODEL.DEVICE", "MODEL.PANOPTIC_FPN.", "MODEL.RETINANET.",
    "MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS", "MODEL.ROI_BOX_HEAD.FED_LOSS_",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "MODEL.SEM_SEG_HEAD.", "MODEL.WEIGHTS", "TEST.AUG.",
    "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN.",
)  # fmt: skip


def read_yaml(given: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a YAML file and of its `_BASE_` files by dotted key: {"MODEL.RPN.NMS_THRESH": 0.7}.

    Raises FileNotFoundError or ValueError that names the file and says what is wrong; `seen` are the files that build
    on it.
    """
    path = existing_file(given)
    if path is None:
        raise FileNotFoundError(
            f"{str(given)[:200]} does not exist; expected Detectron2's YAML (config.yaml in its OUTPUT_DIR), the "
            "name of a "
            "config of its model zoo such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, or KEY=VALUE"
        )
    settings = plain_yaml(read_text(path), str(path), yaml.SafeLoader)
    if not settings:
        raise ValueError(f"{path} holds no settings; expected Detectron2's YAML, with MODEL: and INPUT:")
    base = settings.pop("_BASE_", None)
    if base is None:
        return settings
    file = path.parent / str(base)
    known = None if file.exists() else base_settings(str(base))
    if known is not None:
        return known | settings
    if not file.exists():
        raise FileNotFoundError(
            f"{path} builds on {base}, and {file} does not exist: put it there, or give the whole config.yaml that "
            "training wrote to its OUTPUT_DIR"
        )
    if file.resolve() in (path.resolve(), *seen):
        raise ValueError(f"{path} names itself as its _BASE_")
    return read_yaml(file, (path.resolve(), *seen)) | settings


def require_known(settings: Mapping[str, Any], source: str) -> None:
    """A ValueError names `source` and the first setting that we do in another way, or that has the wrong type."""
    for key, value in settings.items():
        if key in ONLY:
            if listed(value) != ONLY[key]:
                raise ValueError(f"{source}: {key}={value!r} is not supported; expected {ONLY[key]!r}")
        elif key in DEFAULTS:
            default = DEFAULTS[key]
            kinds = (int, float) if type(default) is float else (type(default),)
            if type(listed(value)) not in kinds:
                raise ValueError(f"{source}: {key}={value!r} has the wrong type; expected a value such as {default!r}")


def not_kept(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each setting that is not kept: it does not change predictions, or it is unknown."""
    lines = []
    for key, value in settings.items():
        if key in TRAINING:
            usual, meaning = TRAINING[key]
            if listed(value) != usual:
                lines.append(f"{key}={value!r} is not kept: {meaning}")
        elif key == "MODEL.RPN.BOUNDARY_THRESH" and value >= 0:
            lines.append(
                f"{key}={value!r}: in further training, anchors outside of the image are not matched to any box, "
                "and those "
                "that end on its border are used"
            )
        elif key not in DEFAULTS and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is not a known Detectron2 setting and is ignored")
    return tuple(lines)


def listed(value: Any) -> Any:
    """Tuples as lists, at every depth."""
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value
