"""Detectron2's settings, their defaults, and how its YAML is read.

Every key is accounted for. A key that changes predictions and is not supported is an error. A key that only describes
training, or that is unknown, is reported (`not_kept`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rcnn.models.config import CascadeConfig
from rcnn.text_files import read_text
from rcnn.weights.systems.detectron2.zoo import base_settings
from rcnn.weights.systems.settings import Four, Three, existing_file, field_of, listed, plain_yaml, same

DELTA_WEIGHTS = CascadeConfig.delta_weights
Norm = Literal["", "FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "GN"]
Pooler = Literal["ROIAlignV2", "ROIAlign", "ROIPool"]


@dataclass(frozen=True)
class Settings:
    """Settings that rcnn uses, with the defaults of Detectron2 0.6 (config/defaults.py)."""

    input_format: Literal["BGR", "RGB"] = "BGR"
    input_mask_format: Literal["polygon", "bitmask"] = "polygon"
    input_max_size_test: int = same("input.max_size", 1333)
    input_min_size_test: int = same("input.min_size", 800)
    model_anchor_generator_aspect_ratios: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 2.0),)
    model_anchor_generator_offset: float = same("rpn.anchors.offset", 0.0)
    model_anchor_generator_sizes: tuple[tuple[float, ...], ...] = ((32.0, 64.0, 128.0, 256.0, 512.0),)
    model_backbone_freeze_at: Literal[0, 1, 2, 3, 4, 5] = same("backbone.frozen_stages", 2)
    model_backbone_name: Literal["build_resnet_backbone", "build_resnet_fpn_backbone"] = "build_resnet_backbone"
    model_fpn_in_features: tuple[str, ...] = ()
    model_fpn_norm: Norm = ""
    model_fpn_out_channels: int = same("fpn.channels", 256)
    model_keypoint_on: bool = False
    model_mask_on: bool = False
    model_meta_architecture: Literal["GeneralizedRCNN", "ProposalNetwork"] = "GeneralizedRCNN"
    model_pixel_mean: Three = same("input.pixel_mean", (103.53, 116.28, 123.675))
    model_pixel_std: Three = same("input.pixel_std", (1.0, 1.0, 1.0))
    model_proposal_generator_min_size: int = same("rpn.proposals.min_size", 0)
    model_resnets_depth: Literal[50, 101, 152] = same("backbone.depth", 50)
    model_resnets_norm: Norm = "FrozenBN"
    model_resnets_num_groups: int = same("backbone.groups", 1)
    model_resnets_out_features: tuple[str, ...] = ("res4",)
    model_resnets_res5_dilation: Literal[1, 2] = same("backbone.res5_dilation", 1)
    model_resnets_stride_in_1x1: bool = same("backbone.stride_in_1x1", True)
    model_resnets_width_per_group: int = same("backbone.width_per_group", 64)
    model_roi_box_cascade_head_bbox_reg_weights: tuple[Four, ...] = same("cascade.delta_weights", DELTA_WEIGHTS)
    model_roi_box_cascade_head_ious: tuple[float, ...] = same("cascade.ious", (0.5, 0.6, 0.7))
    model_roi_box_head_bbox_reg_loss_weight: float = same("box.delta_loss_weight", 1.0)
    model_roi_box_head_bbox_reg_weights: Four = same("box.delta_weights", (10.0, 10.0, 5.0, 5.0))
    model_roi_box_head_cls_agnostic_bbox_reg: bool = same("box.class_agnostic", False)
    model_roi_box_head_conv_dim: int = same("box.conv_width", 256)
    model_roi_box_head_fc_dim: int = same("box.fc_width", 1024)
    model_roi_box_head_name: str = ""
    model_roi_box_head_norm: Norm = ""
    model_roi_box_head_num_conv: int = same("box.convs", 0)
    model_roi_box_head_num_fc: int = same("box.fcs", 0)
    model_roi_box_head_pooler_resolution: int = 14
    model_roi_box_head_pooler_sampling_ratio: int = 0
    model_roi_box_head_pooler_type: Pooler = "ROIAlignV2"
    model_roi_box_head_smooth_l1_beta: float = same("box.smooth_l1_beta", 0.0)
    model_roi_heads_batch_size_per_image: int = same("box.sampling.batch_size", 512)
    model_roi_heads_in_features: tuple[str, ...] = ("res4",)
    model_roi_heads_iou_thresholds: tuple[float] = (0.5,)
    model_roi_heads_name: str = "Res5ROIHeads"
    model_roi_heads_nms_thresh_test: float = same("box.selection.nms_iou", 0.5)
    model_roi_heads_num_classes: int = same("num_classes", 80)
    model_roi_heads_positive_fraction: float = same("box.sampling.positive_fraction", 0.25)
    model_roi_heads_proposal_append_gt: bool = same("box.append_ground_truth", True)
    model_roi_heads_score_thresh_test: float = same("box.score_threshold", 0.05)
    model_roi_keypoint_head_conv_dims: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512, 512)
    model_roi_keypoint_head_loss_weight: float = same("keypoint.loss_weight", 1.0)
    model_roi_keypoint_head_normalize_loss_by_visible_keypoints: bool = True
    model_roi_keypoint_head_num_keypoints: int = 17
    model_roi_keypoint_head_pooler_resolution: int = 14
    model_roi_keypoint_head_pooler_sampling_ratio: int = 0
    model_roi_keypoint_head_pooler_type: Pooler = "ROIAlignV2"
    model_roi_mask_head_cls_agnostic_mask: bool = same("mask.class_agnostic", False)
    model_roi_mask_head_conv_dim: int = same("mask.width", 256)
    model_roi_mask_head_norm: Norm = ""
    model_roi_mask_head_num_conv: int = 0
    model_roi_mask_head_pooler_resolution: int = 14
    model_roi_mask_head_pooler_sampling_ratio: int = 0
    model_roi_mask_head_pooler_type: Pooler = "ROIAlignV2"
    model_rpn_batch_size_per_image: int = same("rpn.sampling.batch_size", 256)
    model_rpn_bbox_reg_loss_weight: float = 1.0
    model_rpn_boundary_thresh: int = -1
    model_rpn_conv_dims: tuple[int, ...] = (-1,)
    model_rpn_in_features: tuple[str, ...] = ("res4",)
    model_rpn_iou_thresholds: tuple[float, float] = (0.3, 0.7)
    model_rpn_loss_weight: float = 1.0
    model_rpn_nms_thresh: float = same("rpn.proposals.nms_iou", 0.7)
    model_rpn_positive_fraction: float = same("rpn.sampling.positive_fraction", 0.5)
    model_rpn_post_nms_topk_test: int = same("rpn.proposals.post_nms", 1000)
    model_rpn_post_nms_topk_train: int = same("rpn.proposals.post_nms_train", 2000)
    model_rpn_pre_nms_topk_test: int = same("rpn.proposals.pre_nms", 6000)
    model_rpn_pre_nms_topk_train: int = same("rpn.proposals.pre_nms_train", 12000)
    model_rpn_smooth_l1_beta: float = same("rpn.smooth_l1_beta", 0.0)
    test_detections_per_image: int = same("box.selection.max_detections", 100)
    test_keypoint_oks_sigmas: tuple[float, ...] = ()


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

    Raises FileNotFoundError or ValueError that names the file and says what is wrong; `seen` are the files that
    extend it.
    """
    path = existing_file(given)
    if path is None:
        raise FileNotFoundError(
            f"{str(given)[:200]} does not exist; expected Detectron2's YAML (config.yaml in its OUTPUT_DIR), the name "
            "of a config of its model zoo such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, or KEY=VALUE"
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
        raise ValueError(f"{path} names itself as its _BASE_; remove that line, or name another file")
    return read_yaml(file, (path.resolve(), *seen)) | settings


def not_kept(settings: Mapping[str, object]) -> tuple[str, ...]:
    """A sentence for each setting that is not kept: it does not change predictions, or it is unknown."""
    lines = []
    for key, value in settings.items():
        if key in TRAINING:
            usual, meaning = TRAINING[key]
            if listed(value) != usual:
                lines.append(f"{key}={value!r} is not kept: {meaning}")
        elif key == "MODEL.RPN.BOUNDARY_THRESH" and isinstance(value, int | float) and value >= 0:
            lines.append(
                f"{key}={value!r}: in further training, anchors outside the image are not matched to any box, "
                "and those that end on its border are used"
            )
        elif not hasattr(Settings, field_of(key)) and key not in ONLY and not key.startswith(IDLE):
            lines.append(f"{key}={value!r} is not a known Detectron2 setting and is ignored")
    return tuple(lines)
