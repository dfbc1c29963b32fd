"""Every setting of a detector, with its meaning and unit. A variant is a function that changes another (zoo)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rcnn.models.config.backbones import (
    BackboneConfig,
    CompactConfig,
    FBNetConfig,
    FPNConfig,
    MobileNetConfig,
    Norm,
    ResNetConfig,
    TimmConfig,
    ViTConfig,
)
from rcnn.models.config.fcis import FCISConfig
from rcnn.models.config.heads import BoxHeadConfig, CascadeConfig, MaskHeadConfig, Pooling
from rcnn.models.config.keypoints import COCO_FLIP_PAIRS, COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA, KeypointHeadConfig
from rcnn.models.config.rpn import MAX_LOG_SCALE, RPNConfig
from rcnn.preprocess.config import InputConfig

__all__ = [
    "COCO_FLIP_PAIRS",
    "COCO_KEYPOINTS",
    "COCO_SIGMAS",
    "DEFAULT_SIGMA",
    "MAX_LOG_SCALE",
    "BackboneConfig",
    "BoxHeadConfig",
    "CascadeConfig",
    "CompactConfig",
    "DetectorConfig",
    "FBNetConfig",
    "FCISConfig",
    "FPNConfig",
    "InputConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "MobileNetConfig",
    "Norm",
    "Pooling",
    "RPNConfig",
    "ResNetConfig",
    "TimmConfig",
    "ViTConfig",
]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector. `name` says which function of the zoo it began as."""

    name: str
    num_classes: int = 80  # K, without background
    input: InputConfig = field(default_factory=InputConfig)
    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)  # None: one map of stride 16 (C4), or the backbone's own
    rpn: RPNConfig = field(default_factory=RPNConfig)
    proposals_only: bool = False  # the RPN alone: its proposals are the detections, all of class 0
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    cascade: CascadeConfig | None = None  # several box heads, each of which is as `box` says
    mask: MaskHeadConfig | None = None
    keypoint: KeypointHeadConfig | None = None
    fcis: FCISConfig | None = None  # in place of box and mask, which then are not used
    # half_open: width = x2 - x1; inclusive: width = x2 - x1 + 1 (Detectron, MXNet's FCIS); inclusive_loose: the same,
    # but decoded boxes are a pixel larger (mask-faster-rcnn). Our tensors are half open all the same, ending where the
    # last pixel ends (their x2 + 1): models/box_rules.py says why that is equal, and does what is not
    boxes: Literal["half_open", "inclusive", "inclusive_loose"] = "half_open"

    @property
    def has_masks(self) -> bool:
        """Whether its detections have masks."""
        return self.mask is not None or self.fcis is not None
