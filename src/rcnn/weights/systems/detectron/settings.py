"""Detectron's settings: its YAML, and the YAML text in its weight files, read without creating Python objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from rcnn.text_files import read_text
from rcnn.weights.systems.settings import (
    PYTHON,
    Four,
    PlainLoader,
    SettingsSource,
    Three,
    Unread,
    existing_file,
    field_of,
    listed,
    plain_yaml,
    python_object,
    same,
)


@dataclass(frozen=True)
class Settings:
    """Settings that rcnn uses, with Detectron's defaults (core/config.py)."""

    bbox_xform_clip: float = 4.135166556742356
    fast_rcnn_conv_head_dim: int = 256
    fast_rcnn_mlp_head_dim: int = 1024
    fast_rcnn_num_stacked_convs: int = 4
    fast_rcnn_roi_box_head: str = ""
    fast_rcnn_roi_xform_method: str = "RoIPoolF"
    fast_rcnn_roi_xform_resolution: int = 14
    fast_rcnn_roi_xform_sampling_ratio: int = 0
    fpn_coarsest_stride: int = 32
    fpn_dim: int = same("fpn.channels", 256)
    fpn_fpn_on: bool = False
    fpn_rpn_anchor_start_size: float = 32.0
    fpn_rpn_aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    fpn_use_gn: bool = False
    krcnn_conv_head_dim: int = same("keypoint.width", 256)
    krcnn_loss_weight: float = same("keypoint.loss_weight", 1.0)
    krcnn_normalize_by_visible_keypoints: bool = True
    krcnn_num_keypoints: int = -1
    krcnn_num_stacked_convs: int = same("keypoint.convs", 8)
    krcnn_roi_xform_method: str = "RoIAlign"
    krcnn_roi_xform_resolution: int = 7
    krcnn_roi_xform_sampling_ratio: int = 0
    model_bbox_reg_weights: Four = same("box.delta_weights", (10.0, 10.0, 5.0, 5.0))
    model_cls_agnostic_bbox_reg: bool = same("box.class_agnostic", False)
    model_conv_body: str = ""
    model_faster_rcnn: bool = False
    model_keypoints_on: bool = False
    model_mask_on: bool = False
    model_num_classes: int = -1
    model_rpn_only: bool = False
    model_type: str = ""
    mrcnn_cls_specific_mask: bool = True
    mrcnn_dilation: int = 2
    mrcnn_dim_reduced: int = same("mask.width", 256)
    mrcnn_roi_mask_head: str = ""
    mrcnn_roi_xform_method: str = "RoIAlign"
    mrcnn_roi_xform_resolution: int = 7
    mrcnn_roi_xform_sampling_ratio: int = 0
    pixel_means: Three = same("input.pixel_mean", (102.9801, 115.9465, 122.7717))
    resnets_num_groups: int = same("backbone.groups", 1)
    resnets_res5_dilation: int = 1
    resnets_stride_1x1: bool = same("backbone.stride_in_1x1", True)
    resnets_trans_func: str = "bottleneck_transformation"
    resnets_width_per_group: int = same("backbone.width_per_group", 64)
    rpn_aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_sizes: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    test_detections_per_im: int = same("box.selection.max_detections", 100)
    test_max_size: int = same("input.max_size", 1000)
    test_nms: float = same("box.selection.nms_iou", 0.3)
    test_rpn_min_size: float = 0.0
    test_rpn_nms_thresh: float = same("rpn.proposals.nms_iou", 0.7)
    test_rpn_post_nms_top_n: int = same("rpn.proposals.post_nms", 2000)
    test_rpn_pre_nms_top_n: int = same("rpn.proposals.pre_nms", 12000)
    test_scale: int = same("input.min_size", 600)
    test_score_thresh: float = same("box.score_threshold", 0.05)
    test_soft_nms_enabled: bool = False
    test_soft_nms_method: str = "linear"
    test_soft_nms_sigma: float = same("box.selection.soft_nms_sigma", 0.5)
    train_batch_size_per_im: int = same("box.sampling.batch_size", 64)
    train_bg_thresh_lo: float = same("box.sampling.min_negative_iou", 0.0)
    train_fg_fraction: float = same("box.sampling.positive_fraction", 0.25)
    train_fg_thresh: float = same("box.sampling.positive_iou", 0.5)
    train_freeze_at: int = 2
    train_freeze_conv_body: bool = False
    train_rpn_batch_size_per_im: int = same("rpn.sampling.batch_size", 256)
    train_rpn_fg_fraction: float = same("rpn.sampling.positive_fraction", 0.5)
    train_rpn_negative_overlap: float = same("rpn.sampling.negative_iou", 0.3)
    train_rpn_positive_overlap: float = same("rpn.sampling.positive_iou", 0.7)
    train_rpn_post_nms_top_n: int = same("rpn.proposals.post_nms_train", 2000)
    train_rpn_pre_nms_top_n: int = same("rpn.proposals.pre_nms_train", 12000)
    train_rpn_straddle_thresh: float = 0.0


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
# options of predict and eval here, or not supported: reported if they are on
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
    """Also reads Detectron's dictionaries and numpy's numbers and arrays, which Detectron writes with Python tags."""


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
    """Settings of Detectron's YAML `text` by dotted key: {"TEST.NMS": 0.5}. Raises ValueError with the source."""
    content = plain_yaml(text, f"{source}: the settings", _Loader)
    if not content:
        raise ValueError(f"{source} holds no settings; expected Detectron's YAML, with MODEL: and TEST:")
    settings = {RENAMED.get(key, key): value for key, value in content.items()}
    scales = listed(settings.get("TEST.SCALES"))  # the old name of TEST.SCALE, a tuple
    if "TEST.SCALE" not in settings and isinstance(scales, list) and len(scales) == 1:
        settings["TEST.SCALE"] = settings.pop("TEST.SCALES")[0]
    return settings


def read_yaml(given: SettingsSource) -> dict[str, Any]:
    """The settings of one of Detectron's YAML files by dotted key. Raises FileNotFoundError or ValueError."""
    path = existing_file(given or "")
    if path is None:
        raise FileNotFoundError(
            f"{str(given)[:200]} does not exist; expected Detectron's YAML (of its configs/) or KEY=VALUE"
        )
    return yaml_settings(read_text(path), str(path))


def not_kept(settings: Mapping[str, object]) -> tuple[str, ...]:
    """A sentence for each setting that is not kept."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Unread):
            lines.append(f"{key} is a Python object ({value.tag}) and is not read: Detectron's default is used")
        elif key in NOT_KEPT:
            if value != NOT_KEPT[key]:
                lines.append(f"{key}={value!r} is not kept: it is an option of predict and eval, or not supported")
        elif not hasattr(Settings, field_of(key)) and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is not a known Detectron setting and is ignored")
    return tuple(lines)
