"""All settings of a detector, with meaning and unit. The zoo has functions that return or change configs."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcnn.models.config.backbones import (
    BackboneConfig,
    CompactConfig,
    FBNetConfig,
    FPNConfig,
    MobileNetConfig,
    MobileNetV1Config,
    Norm,
    OwnBackboneConfig,
    ResNetConfig,
    TimmConfig,
    VGGConfig,
    ViTConfig,
)
from rcnn.models.config.fcis import FCIS_SAMPLING, FCISConfig
from rcnn.models.config.heads import BOX_SAMPLING, BoxHeadConfig, CascadeConfig, MaskHeadConfig
from rcnn.models.config.keypoints import (
    COCO_FLIP_PAIRS,
    COCO_KEYPOINTS,
    COCO_SIGMAS,
    DEFAULT_SIGMA,
    KeypointHeadConfig,
    default_sigmas,
)
from rcnn.models.config.legacy import LegacyConfig, LegacyFCISConfig, LegacyRPNConfig
from rcnn.models.config.parts import (
    NO_LIMIT,
    AnchorSamplingConfig,
    PoolerConfig,
    Pooling,
    RegionSamplingConfig,
    SelectionConfig,
)
from rcnn.models.config.rpn import RPN_SAMPLING, AnchorConfig, ProposalConfig, RPNConfig
from rcnn.models.setting_types import set_types
from rcnn.preprocess.config import InputConfig

__all__ = [
    "BOX_SAMPLING",
    "COCO_FLIP_PAIRS",
    "COCO_KEYPOINTS",
    "COCO_SIGMAS",
    "CONFIG_VERSION",
    "DEFAULT_SIGMA",
    "FCIS_SAMPLING",
    "NO_LIMIT",
    "RPN_SAMPLING",
    "AnchorConfig",
    "AnchorSamplingConfig",
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
    "LegacyConfig",
    "LegacyFCISConfig",
    "LegacyRPNConfig",
    "MaskHeadConfig",
    "MobileNetConfig",
    "MobileNetV1Config",
    "Norm",
    "OwnBackboneConfig",
    "PoolerConfig",
    "Pooling",
    "ProposalConfig",
    "RPNConfig",
    "RegionSamplingConfig",
    "ResNetConfig",
    "SelectionConfig",
    "TimmConfig",
    "VGGConfig",
    "ViTConfig",
    "default_sigmas",
]

CONFIG_VERSION = 2  # increased when keys of DetectorConfig change; checkpoints store it


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector."""

    name: str  # of the zoo's model that it was made from
    num_classes: int = 80  # K, without background
    input: InputConfig = field(default_factory=InputConfig)
    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)  # None: one map of stride 16 (C4), or the backbone's own
    rpn: RPNConfig = field(default_factory=RPNConfig)
    proposals_only: bool = False  # the RPN alone: its proposals are the detections, all of class 0
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    cascade: CascadeConfig | None = None  # several box heads in a row, each with the settings of `box`
    mask: MaskHeadConfig | None = None
    keypoint: KeypointHeadConfig | None = None
    fcis: FCISConfig | None = None  # replaces the box and mask heads
    legacy: LegacyConfig = field(default_factory=LegacyConfig)

    def __post_init__(self) -> None:
        """Raises ValueError, with the path of the setting, for a value that is not of the type of its field."""
        set_types(self)

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.mask is not None or self.fcis is not None

    @property
    def has_box_head(self) -> bool:
        """Whether the settings `box` are used: FCIS and an RPN alone have no box head."""
        return self.fcis is None and not self.proposals_only
