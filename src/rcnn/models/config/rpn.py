"""Settings of the region proposal network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rcnn.models.config.legacy import LegacyRPNConfig
from rcnn.models.config.parts import AnchorSamplingConfig
from rcnn.ops.deltas import MAX_LOG_SCALE

RPN_SAMPLING = AnchorSamplingConfig(batch_size=256, positive_fraction=0.5, positive_iou=0.7, negative_iou=0.3)


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Anchors: the reference boxes at each cell of a feature map."""

    # side of the square of equal area, pixels; one tuple per level, from the finest to the coarsest
    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    offset: float = 0.0  # centre of the first anchor, in strides; 0.5: the middle of the cell


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Which anchors become proposals."""

    nms_iou: float = 0.7  # of two proposals of a level with a higher IoU, NMS removes the one with the lower score
    pre_nms_train: int = 2000  # anchors with the highest scores kept per level before NMS, in training
    pre_nms: int = 1000  # ... in prediction
    post_nms_train: int = 1000  # proposals kept per image after NMS (all levels together), in training
    post_nms: int = 1000  # ... in prediction
    # proposals with a side of at most this are removed, pixels (legacy.boxes=inclusive: with a side shorter than this)
    min_size: float = 0.0
    score_threshold: float = 0.0  # proposals with a lower probability are removed (torchvision's MobileNet)


@dataclass(frozen=True, kw_only=True)
class RPNConfig:
    """Region proposal network (Ren et al. 2015, section 3.1)."""

    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    head: Literal["conv", "fbnet"] = "conv"  # 3x3 convolutions, or D2Go's block
    convs: int = 1  # 3x3 convolutions before the two outputs
    width: int = 0  # their channels; 0: the same number as the feature maps
    sampling: AnchorSamplingConfig = RPN_SAMPLING
    smooth_l1_beta: float = 0.0  # 0: plain L1
    loss_weights: tuple[float, float] = (1.0, 1.0)  # of the objectness loss and of the box loss
    max_log_scale: float = MAX_LOG_SCALE  # upper limit of the predicted log scales; 100: none
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    legacy: LegacyRPNConfig = field(default_factory=LegacyRPNConfig)
