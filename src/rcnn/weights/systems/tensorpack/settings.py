"""tensorpack's settings. Its checkpoints contain none, so users give them as KEY=VALUE, like its `--config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rcnn.models.config import CascadeConfig
from rcnn.weights.systems.settings import Four, Three, same


@dataclass(frozen=True)
class Settings:
    """tensorpack's settings that a detector has, with the defaults of its last version."""

    mode_mask: bool = True
    mode_fpn: bool = True
    backbone_resnet_num_blocks: tuple[int, ...] = (3, 4, 6, 3)
    backbone_freeze_affine: bool = False
    backbone_norm: Literal["FreezeBN", "SyncBN", "GN", "None"] = "FreezeBN"
    backbone_freeze_at: int = same("backbone.frozen_stages", 2)
    backbone_tf_pad_mode: bool = False
    backbone_stride_1x1: bool = same("backbone.stride_in_1x1", False)
    preproc_test_short_edge_size: int = same("input.min_size", 800)
    preproc_max_size: int = 1333
    preproc_pixel_mean: Three = (123.675, 116.28, 103.53)
    preproc_pixel_std: Three = (58.395, 57.12, 57.375)
    rpn_anchor_stride: int = 16
    rpn_anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    rpn_anchor_ratios: tuple[float, ...] = same("rpn.anchors.ratios", (0.5, 1.0, 2.0))
    rpn_positive_anchor_thresh: float = same("rpn.sampling.positive_iou", 0.7)
    rpn_negative_anchor_thresh: float = same("rpn.sampling.negative_iou", 0.3)
    rpn_fg_ratio: float = same("rpn.sampling.positive_fraction", 0.5)
    rpn_batch_per_im: int = same("rpn.sampling.batch_size", 256)
    rpn_min_size: int = 0
    rpn_proposal_nms_thresh: float = same("rpn.proposals.nms_iou", 0.7)
    rpn_crowd_overlap_thresh: float = same("rpn.legacy.crowd_ioa", 9.99)
    rpn_head_dim: int = 1024
    rpn_train_pre_nms_topk: int = 12000
    rpn_train_post_nms_topk: int = 2000
    rpn_test_pre_nms_topk: int = 6000
    rpn_test_post_nms_topk: int = 1000
    rpn_train_per_level_nms_topk: int = 2000
    rpn_test_per_level_nms_topk: int = 1000
    frcnn_batch_per_im: int = same("box.sampling.batch_size", 512)
    frcnn_bbox_reg_weights: Four = same("box.delta_weights", (10.0, 10.0, 5.0, 5.0))
    frcnn_fg_thresh: float = same("box.sampling.positive_iou", 0.5)
    frcnn_fg_ratio: float = same("box.sampling.positive_fraction", 0.25)
    fpn_anchor_strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    fpn_proposal_mode: str = "Level"
    fpn_num_channel: int = same("fpn.channels", 256)
    fpn_norm: str = "None"
    fpn_frcnn_head_func: str = "fastrcnn_2fc_head"
    fpn_frcnn_conv_head_dim: int = same("box.conv_width", 256)
    fpn_frcnn_fc_head_dim: int = same("box.fc_width", 1024)
    fpn_mrcnn_head_func: str = "maskrcnn_up4conv_head"
    fpn_cascade: bool = False
    mrcnn_head_dim: int = same("mask.width", 256)
    mrcnn_accurate_paste: bool = True
    cascade_ious: tuple[float, ...] = same("cascade.ious", (0.5, 0.6, 0.7))
    cascade_bbox_reg_weights: tuple[Four, ...] = same("cascade.delta_weights", CascadeConfig.delta_weights)
    test_frcnn_nms_thresh: float = same("box.selection.nms_iou", 0.5)
    test_result_score_thresh: float = same("box.score_threshold", 0.05)
    test_results_per_im: int = same("box.selection.max_detections", 100)
    data_class_names: tuple[str, ...] = ()


# pattern of settings that only describe the training
TRAINING = (
    r"TRAINER|DATA\.(BASEDIR|TRAIN|VAL|NUM_CATEGORY|ABSOLUTE_COORD|FILTER_EMPTY_ANNOTATIONS|NUM_WORKERS)"
    r"|BACKBONE\.WEIGHTS|TRAIN\.[A-Z_]+|PREPROC\.TRAIN_SHORT_EDGE_SIZE|TEST\.RESULT_SCORE_THRESH_VIS"
    r"|RPN\.NUM_ANCHOR|FPN\.RESOLUTION_REQUIREMENT"
)
