"""tensorpack's settings. Its checkpoints contain none: they are given as KEY=VALUE, its `--config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """tensorpack's settings that a detector has, with the defaults of its last version."""

    mode_mask: bool = True
    mode_fpn: bool = True
    backbone_resnet_num_blocks: tuple[int, ...] = (3, 4, 6, 3)
    backbone_freeze_affine: bool = False
    backbone_norm: Literal["FreezeBN", "SyncBN", "GN", "None"] = "FreezeBN"
    backbone_freeze_at: int = 2
    backbone_tf_pad_mode: bool = False
    backbone_stride_1x1: bool = False
    preproc_test_short_edge_size: int = 800
    preproc_max_size: int = 1333
    preproc_pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    preproc_pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    rpn_anchor_stride: int = 16
    rpn_anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    rpn_anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_positive_anchor_thresh: float = 0.7
    rpn_negative_anchor_thresh: float = 0.3
    rpn_fg_ratio: float = 0.5
    rpn_batch_per_im: int = 256
    rpn_min_size: int = 0
    rpn_proposal_nms_thresh: float = 0.7
    rpn_crowd_overlap_thresh: float = 9.99
    rpn_head_dim: int = 1024
    rpn_train_pre_nms_topk: int = 12000
    rpn_train_post_nms_topk: int = 2000
    rpn_test_pre_nms_topk: int = 6000
    rpn_test_post_nms_topk: int = 1000
    rpn_train_per_level_nms_topk: int = 2000
    rpn_test_per_level_nms_topk: int = 1000
    frcnn_batch_per_im: int = 512
    frcnn_bbox_reg_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    frcnn_fg_thresh: float = 0.5
    frcnn_fg_ratio: float = 0.25
    fpn_anchor_strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    fpn_proposal_mode: str = "Level"
    fpn_num_channel: int = 256
    fpn_norm: str = "None"
    fpn_frcnn_head_func: str = "fastrcnn_2fc_head"
    fpn_frcnn_conv_head_dim: int = 256
    fpn_frcnn_fc_head_dim: int = 1024
    fpn_mrcnn_head_func: str = "maskrcnn_up4conv_head"
    fpn_cascade: bool = False
    mrcnn_head_dim: int = 256
    mrcnn_accurate_paste: bool = True
    cascade_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    cascade_bbox_reg_weights: tuple[tuple[float, float, float, float], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    test_frcnn_nms_thresh: float = 0.5
    test_result_score_thresh: float = 0.05
    test_results_per_im: int = 100
    data_class_names: tuple[str, ...] = ()


# pattern of settings that only describe the training
TRAINING = (
    r"TRAINER|DATA\.(BASEDIR|TRAIN|VAL|NUM_CATEGORY|ABSOLUTE_COORD|FILTER_EMPTY_ANNOTATIONS|NUM_WORKERS)"
    r"|BACKBONE\.WEIGHTS|TRAIN\.[A-Z_]+|PREPROC\.TRAIN_SHORT_EDGE_SIZE|TEST\.RESULT_SCORE_THRESH_VIS"
    r"|RPN\.NUM_ANCHOR|FPN\.RESOLUTION_REQUIREMENT"
)
