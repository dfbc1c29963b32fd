"""Detectron's settings: its YAML, and the text of them all that lies in its weights, read without making any object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rcnn.weights.systems.detectron2.settings import flat, listed

# what we read, and the value that Detectron takes where nothing says (its core/config.py)
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

# what we do one way only: any other value would give other predictions
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
# the same of masks and of keypoints, where the network has them
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
# what is asked for when predicting, or is not done here: listed where it is on
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
# keys, and beginnings of keys, that say nothing of the network: data, schedules, machines, parts that are off
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


class _Plain(yaml.SafeLoader):
    """YAML of values alone. What Detectron dumped were objects of its own and of numpy: they are read as the mappings
    and numbers they are written by, and nothing is imported, made or called.
    """


class Unread:
    """A Python object in YAML that we do not read."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __repr__(self) -> str:
        return f"<{self.tag}>"


def _object(loader: _Plain, suffix: str, node: yaml.Node) -> Any:
    """A dictionary of Detectron's kind, a numpy array or number, or Unread."""
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


def _name(loader: _Plain, suffix: str, node: yaml.Node) -> Unread:
    return Unread(suffix)


def _sequence(loader: _Plain, node: yaml.Node) -> list[Any]:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []


def _whole(loader: _Plain, node: yaml.Node) -> Any:
    return int(loader.construct_scalar(node)) if isinstance(node, yaml.ScalarNode) else Unread("long")


def _text(loader: _Plain, node: yaml.Node) -> str:
    return str(loader.construct_scalar(node)) if isinstance(node, yaml.ScalarNode) else ""


PYTHON = "tag:yaml.org,2002:python/"
_Plain.add_multi_constructor(f"{PYTHON}object/new:", _object)
_Plain.add_multi_constructor(f"{PYTHON}object/apply:", _object)
_Plain.add_multi_constructor(f"{PYTHON}object:", _object)
_Plain.add_multi_constructor(f"{PYTHON}name:", _name)
_Plain.add_constructor(f"{PYTHON}tuple", _sequence)
_Plain.add_constructor(f"{PYTHON}long", _whole)
_Plain.add_constructor(f"{PYTHON}str", _text)
_Plain.add_constructor(f"{PYTHON}unicode", _text)


def read_text(text: str, source: str) -> dict[str, Any]:
    """Flat settings of Detectron's YAML `text`, {"TEST.NMS": 0.5}; a ValueError names `source` and what is wrong."""
    try:
        content = _Plain(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{source}: settings are not plain YAML ({' '.join(str(error).split())[:300]})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds no settings; want Detectron's YAML, which has MODEL: and TEST:")
    settings = {RENAMED.get(key, key): value for key, value in flat(content).items()}
    scales = listed(settings.get("TEST.SCALES"))  # what TEST.SCALE was before, a tuple
    if "TEST.SCALE" not in settings and isinstance(scales, list) and len(scales) == 1:
        settings["TEST.SCALE"] = settings.pop("TEST.SCALES")[0]
    means = settings.get("PIXEL_MEANS")
    if means is not None and not isinstance(means, Unread):
        settings["PIXEL_MEANS"] = np.ravel(np.asarray(listed(means), dtype=np.float64)).tolist()
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Flat settings of one of Detectron's YAML files."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: want Detectron's YAML (of its configs/), or leave it out")
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not plain YAML ({error})") from error


def require_known(settings: Mapping[str, Any], source: str, *, masks: bool, keypoints: bool) -> None:
    """A ValueError that names `source` and the first setting that we do another way, or of the wrong kind."""
    only = ONLY | (ONLY_MASK if masks else {}) | (ONLY_KEYPOINT if keypoints else {})
    for key, value in settings.items():
        if key in only and listed(value) != only[key] and not isinstance(value, Unread):
            raise ValueError(f"{source}: {key}={value!r} is not supported; want {only[key]!r}")
        if key not in DEFAULTS or isinstance(value, Unread):
            continue
        wanted = DEFAULTS[key]
        number = type(wanted) in (int, float) and type(value) in (int, float)
        if not number and type(listed(value)) is not type(wanted):
            raise ValueError(f"{source}: {key}={value!r} is of the wrong kind; want one such as {wanted!r}")


def not_kept(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each setting that plays no part here, though it did there or may have."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Unread):
            lines.append(f"{key} is a Python object ({value.tag}), which is not read: Detectron's default stands")
        elif key in NOT_KEPT:
            if value != NOT_KEPT[key]:
                lines.append(f"{key}={value!r} is not kept: it is asked for when predicting, or not done here")
        elif key not in DEFAULTS and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is no setting of Detectron that we know, and plays no part")
    return tuple(lines)
