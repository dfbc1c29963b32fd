"""Detectron's settings: its YAML, and the text of all settings in its weight files, read without making any object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from rcnn.weights.systems.detectron2.settings import listed
from rcnn.weights.systems.settings import (
    PYTHON,
    PlainLoader,
    SettingsSource,
    Unread,
    existing_file,
    plain_yaml,
    python_object,
    read_text,
)

# settings that we use, with Detectron's defaults (core/config.py)
DEFAULTS: dict[str, Any] = {
    "BBOX_XFORM_CLIP": math.log(1000 / 16),
    "FAST_RCNN.CONV_HEAD_DIM": 256,
    "FAST_RCNN.MLP_HEAD_DIM": 1024,
    "FAST_RCNN.NUM_STACKED_CONVS": 4,
    "FAST_RCNN.ROI_BOX_HEAD": "",
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIPoolF",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14,
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "FPN.COARSEST_STRIDE": 32,
    "FPN.DIM": 256,
    "FPN.FPN_ON": False,
    "FPN.RPN_ANCHOR_START_SIZE": 32,
    "FPN.RPN_ASPECT_RATIOS": [0.5, 1, 2],
    "FPN.USE_GN": False,
    "KRCNN.CONV_HEAD_DIM": 256,
    "KRCNN.LOSS_WEIGHT": 1.0,
    "KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": True,
    "KRCNN.NUM_KEYPOINTS": -1,
    "KRCNN.NUM_STACKED_CONVS": 8,
    "KRCNN.ROI_XFORM_METHOD": "RoIAlign",
    "KRCNN.ROI_XFORM_RESOLUTION": 7,
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "MODEL.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.CONV_BODY": "",
    "MODEL.FASTER_RCNN": False,
    "MODEL.KEYPOINTS_ON": False,
    "MODEL.MASK_ON": False,
    "MODEL.NUM_CLASSES": -1,
    "MODEL.RPN_ONLY": False,
    "MODEL.TYPE": "",
    "MRCNN.CLS_SPECIFIC_MASK": True,
    "MRCNN.DILATION": 2,
    "MRCNN.DIM_REDUCED": 256,
    "MRCNN.ROI_MASK_HEAD": "",
    "MRCNN.ROI_XFORM_METHOD": "RoIAlign",
    "MRCNN.ROI_XFORM_RESOLUTION": 7,
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "PIXEL_MEANS": [102.9801, 115.9465, 122.7717],
    "RESNETS.NUM_GROUPS": 1,
    "RESNETS.RES5_DILATION": 1,
    "RESNETS.STRIDE_1X1": True,
    "RESNETS.TRANS_FUNC": "bottleneck_transformation",
    "RESNETS.WIDTH_PER_GROUP": 64,
    "RPN.ASPECT_RATIOS": [0.5, 1, 2],
    "RPN.SIZES": [64, 128, 256, 512],
    "TEST.DETECTIONS_PER_IM": 100,
    "TEST.MAX_SIZE": 1000,
    "TEST.NMS": 0.3,
    "TEST.RPN_MIN_SIZE": 0,
    "TEST.RPN_NMS_THRESH": 0.7,
    "TEST.RPN_POST_NMS_TOP_N": 2000,
    "TEST.RPN_PRE_NMS_TOP_N": 12000,
    "TEST.SCALE": 600,
    "TEST.SCORE_THRESH": 0.05,
    "TEST.SOFT_NMS.ENABLED": False,
    "TEST.SOFT_NMS.METHOD": "linear",
    "TEST.SOFT_NMS.SIGMA": 0.5,
    "TRAIN.BATCH_SIZE_PER_IM": 64,
    "TRAIN.BG_THRESH_LO": 0.0,
    "TRAIN.FG_FRACTION": 0.25,
    "TRAIN.FG_THRESH": 0.5,
    "TRAIN.FREEZE_AT": 2,
    "TRAIN.FREEZE_CONV_BODY": False,
    "TRAIN.RPN_BATCH_SIZE_PER_IM": 256,
    "TRAIN.RPN_FG_FRACTION": 0.5,
    "TRAIN.RPN_NEGATIVE_OVERLAP": 0.3,
    "TRAIN.RPN_POSITIVE_OVERLAP": 0.7,
    "TRAIN.RPN_POST_NMS_TOP_N": 2000,
    "TRAIN.RPN_PRE_NMS_TOP_N": 12000,
    "TRAIN.RPN_STRADDLE_THRESH": 0,
}

# settings with one supported value: any other would change predictions
ONLY: dict[str, Any] = {
    "FPN.EXTRA_CONV_LEVELS": False,
    "FPN.ROI_CANONICAL_LEVEL": 4,
    "FPN.ROI_CANONICAL_SCALE": 224,
    "FPN.ROI_MAX_LEVEL": 5,
    "FPN.ROI_MIN_LEVEL": 2,
    "FPN.RPN_MAX_LEVEL": 6,
    "FPN.RPN_MIN_LEVEL": 2,
    "GROUP_NORM.DIM_PER_GP": -1,
    "GROUP_NORM.EPSILON": 1e-5,
    "GROUP_NORM.NUM_GROUPS": 32,
    "RETINANET.RETINANET_ON": False,
    "RPN.STRIDE": 16,
    "TEST.BBOX_REG": True,
}
# the same for networks with masks and with keypoints
ONLY_MASK: dict[str, Any] = {"MRCNN.THRESH_BINARIZE": 0.5, "MRCNN.UPSAMPLE_RATIO": 1, "MRCNN.USE_FC_OUTPUT": False}
ONLY_KEYPOINT: dict[str, Any] = {
    "KRCNN.CONV_HEAD_KERNEL": 3,
    "KRCNN.DECONV_KERNEL": 4,
    "KRCNN.DILATION": 1,
    "KRCNN.INFERENCE_MIN_SIZE": 0,
    "KRCNN.UP_SCALE": 2,
    "KRCNN.USE_DECONV": False,
    "KRCNN.USE_DECONV_OUTPUT": True,
}
# settings that are options of predict and eval here, or not supported: reported where they are on
NOT_KEPT: dict[str, Any] = {
    "KRCNN.KEYPOINT_CONFIDENCE": "bbox",
    "KRCNN.NMS_OKS": False,
    "MRCNN.WEIGHT_LOSS_MASK": 1.0,
    "TEST.BBOX_AUG.ENABLED": False,
    "TEST.BBOX_VOTE.ENABLED": False,
    "TEST.KPS_AUG.ENABLED": False,
    "TEST.MASK_AUG.ENABLED": False,
    "TRAIN.BG_THRESH_HI": 0.5,
    "TRAIN.RPN_MIN_SIZE": 0,
    "TRAIN.RPN_NMS_THRESH": 0.7,
}
# keys, and prefixes of keys, that do not describe the network: data, schedules, machines, parts that are off
IDLE = (
    "CLUSTER.", "DATA_LOADER.", "DEDUP_BOXES", "DOWNLOAD_CACHE", "EPS", "EXPECTED_RESULTS", "FPN.MULTILEVEL_",
    "FPN.ZERO_INIT_LATERAL", "KRCNN.CONV_INIT", "KRCNN.DECONV_DIM", "KRCNN.HEATMAP_SIZE", "KRCNN.MIN_KEYPOINT_COUNT",
    "KRCNN.ROI_KEYPOINTS_HEAD", "MATLAB", "MEMONGER", "MODEL.EXECUTION_TYPE", "MRCNN.CONV_INIT", "MRCNN.RESOLUTION",
    "NUM_GPUS", "OUTPUT_DIR", "RESNETS.SHORTCUT_FUNC", "RESNETS.STEM_FUNC", "RETINANET.",
    "RFCN.", "RNG_SEED", "ROOT_DIR", "RPN.RPN_ON", "SOLVER.", "TEST.BBOX_AUG.", "TEST.BBOX_VOTE.",
    "TEST.CLASS_SPECIFIC_AR", "TEST.COMPETITION_MODE", "TEST.DATASETS", "TEST.FORCE_JSON_DATASET_EVAL",
    "TEST.GENERATE_PROPOSALS_ON_GPU", "TEST.KPS_AUG.", "TEST.MASK_AUG.", "TEST.PRECOMPUTED_PROPOSALS",
    "TEST.PROPOSAL_", "TEST.WEIGHTS", "TRAIN.ASPECT_GROUPING", "TRAIN.AUTO_RESUME", "TRAIN.BBOX_THRESH",
    "TRAIN.COPY_WEIGHTS", "TRAIN.CROWD_FILTER_THRESH", "TRAIN.DATASETS",
    "TRAIN.GENERATE_PROPOSALS_ON_GPU", "TRAIN.GT_MIN_AREA", "TRAIN.IMS_PER_BATCH", "TRAIN.MAX_SIZE",
    "TRAIN.PROPOSAL_FILES", "TRAIN.SCALES", "TRAIN.SNAPSHOT_ITERS",
    "TRAIN.USE_FLIPPED", "TRAIN.WEIGHTS", "USE_NCCL", "VIS", *ONLY_MASK, *ONLY_KEYPOINT,
)  # fmt: skip
RENAMED = {"MODEL.ROI_HEAD": "FAST_RCNN.ROI_BOX_HEAD", "MRCNN.MASK_HEAD_NAME": "MRCNN.ROI_MASK_HEAD"}


class _Loader(PlainLoader):
    """Also reads what Detectron dumped, its dictionaries and numpy's numbers, as the values they are written as."""


def _object(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    """One of Detectron's dictionaries, a numpy array or number, or Unread."""
    if not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        return Unread(suffix)
    is_map = isinstance(node, yaml.MappingNode)
    content: Any = loader.construct_mapping(node, deep=True) if is_map else loader.construct_sequence(node, deep=True)
    if suffix.endswith(".AttrDict"):
        return content.get("dictitems", {}) if isinstance(content, dict) else Unread(suffix)
    return _numpy(suffix, content)


def _numpy(name: str, content: Any) -> Any:
    """The numbers of a pickled numpy scalar or array of floats or integers; Unread for anything else."""
    try:
        if name.endswith(".dtype"):
            code = content["args"][0] if isinstance(content, dict) else content[0]
            return np.dtype(code) if code in ("f4", "f8", "i4", "i8") else Unread(name)
        if name.endswith("multiarray.scalar"):
            dtype, data = content["args"] if isinstance(content, dict) else content
            return np.frombuffer(_bytes(data), dtype)[0].item()
        if name.endswith("multiarray._reconstruct"):
            _, shape, dtype, _, data = content["state"]
            return np.frombuffer(_bytes(data), dtype).reshape(shape).tolist()
    except (KeyError, IndexError, TypeError, ValueError):
        return Unread(name)
    return Unread(name)


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _python(loader: _Loader, suffix: str, node: yaml.Node) -> object:
    if suffix.startswith("object"):
        return _object(loader, suffix.partition(":")[2], node)
    return python_object(loader, suffix, node)


_Loader.add_multi_constructor(PYTHON, _python)


def yaml_settings(text: str, source: str) -> dict[str, Any]:
    """Settings of Detectron's YAML `text` by dotted key, {"TEST.NMS": 0.5}; ValueError names `source` and the fault."""
    content = plain_yaml(text, f"{source}: the settings", _Loader)
    if not content:
        raise ValueError(f"{source} holds no settings; expected Detectron's YAML, with MODEL: and TEST:")
    settings = {RENAMED.get(key, key): value for key, value in content.items()}
    scales = listed(settings.get("TEST.SCALES"))  # the old name of TEST.SCALE, a tuple
    if "TEST.SCALE" not in settings and isinstance(scales, list) and len(scales) == 1:
        settings["TEST.SCALE"] = settings.pop("TEST.SCALES")[0]
    means = settings.get("PIXEL_MEANS")
    if means is not None and not isinstance(means, Unread):
        settings["PIXEL_MEANS"] = np.ravel(np.asarray(listed(means), dtype=np.float64)).tolist()
    return settings


def read_yaml(given: SettingsSource) -> dict[str, Any]:
    """The settings of one of Detectron's YAML files by dotted key."""
    path = existing_file(given or "")
    if path is None:
        raise FileNotFoundError(
            f"{str(given)[:200]} does not exist; expected Detectron's YAML (of its configs/) or KEY=VALUE"
        )
    return yaml_settings(read_text(path), str(path))


def require_known(settings: Mapping[str, Any], source: str, *, masks: bool, keypoints: bool) -> None:
    """A ValueError names `source` and the first setting that we do in another way, or that has the wrong type."""
    only = ONLY | (ONLY_MASK if masks else {}) | (ONLY_KEYPOINT if keypoints else {})
    for key, value in settings.items():
        if key in only and listed(value) != only[key] and not isinstance(value, Unread):
            raise ValueError(f"{source}: {key}={value!r} is not supported; expected {only[key]!r}")
        if key not in DEFAULTS or isinstance(value, Unread):
            continue
        default = DEFAULTS[key]
        number = type(default) in (int, float) and type(value) in (int, float)
        if not number and type(listed(value)) is not type(default):
            raise ValueError(f"{source}: {key}={value!r} has the wrong type; expected a value such as {default!r}")


def not_kept(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each setting that is not kept."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Unread):
            lines.append(f"{key} is a Python object ({value.tag}) and is not read: Detectron's default is used")
        elif key in NOT_KEPT:
            if value != NOT_KEPT[key]:
                lines.append(f"{key}={value!r} is not kept: it is an option of predict and eval, or not supported")
        elif key not in DEFAULTS and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is not a known Detectron setting and is ignored")
    return tuple(lines)
