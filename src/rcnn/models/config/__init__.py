"""All settings of a detector, with meaning and unit. A variant is a function that changes another (zoo)."""

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
from rcnn.models.config.fcis import FCIS_SAMPLING, FCISConfig
from rcnn.models.config.heads import BOX_SAMPLING, BoxHeadConfig, CascadeConfig, MaskHeadConfig
from rcnn.models.config.keypoints import COCO_FLIP_PAIRS, COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA, KeypointHeadConfig
from rcnn.models.config.legacy import LegacyConfig, LegacyFCISConfig, LegacyRPNConfig
from rcnn.models.config.parts import MAX_LOG_SCALE, PoolerConfig, Pooling, SamplingConfig, SelectionConfig
from rcnn.models.config.rpn import RPN_SAMPLING, AnchorConfig, ProposalConfig, RPNConfig

__all__ = [
    "BOX_SAMPLING",
    "COCO_FLIP_PAIRS",
    "COCO_KEYPOINTS",
    "COCO_SIGMAS",
    "CONFIG_VERSION",
    "DEFAULT_SIGMA",
    "FCIS_SAMPLING",
    "MAX_LOG_SCALE",
    "RPN_SAMPLING",
    "AnchorConfig",
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
    "Norm",
    "PoolerConfig",
    "Pooling",
    "ProposalConfig",
    "RPNConfig",
    "ResNetConfig",
    "SamplingConfig",
    "SelectionConfig",
    "TimmConfig",
    "ViTConfig",
]

CONFIG_VERSION = 1  # increased when keys of DetectorConfig change; checkpoints store it


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image file becomes the network's input."""

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # longer side at most, pixels
    # antialias: Pillow's bilinear on uint8 (Detectron2); bilinear: on floats, without antialiasing (torchvision);
    # align_corners: the same with corners aligned (D2Go); opencv: OpenCV's bilinear on uint8; opencv_float: on floats
    resize: Literal["antialias", "bilinear", "align_corners", "opencv", "opencv_float"] = "antialias"
    # of the resized sides: to the nearest pixel, down (FCIS in Chainer), or as OpenCV rounds those of a factor, which
    # then spaces the samples itself (chainer-mask-rcnn, DeNA); factor_limit: the longer side is rounded before it is
    # compared with max_size, too (Detectron, mask-faster-rcnn); factor_up: the same, but no image is made smaller for
    # min_size's sake, and the samples are spaced by the sides (matterport)
    size_rounding: Literal["round", "floor", "factor", "factor_limit", "factor_up"] = "round"
    canvas: int = 0  # side of a black square in whose middle images lie, pixels (matterport); 0: none
    # what boxes are divided by on their way back to the file's pixels: each axis by its own factor; both by that of the
    # width (ChainerCV) or of the height (chainer-fcis), by the mean of the two (tensorpack), by the one before rounding
    rescale: Literal["axes", "width", "height", "geometric", "factor"] = "axes"
    channel_order: Literal["rgb", "bgr"] = "rgb"  # what the weights were trained on
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # 0..255, in channel_order
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    divisor: int = 32  # exact padding: sides become multiples of this; 0: only to the largest image of the batch


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector. `name` is the function of the zoo that it started from."""

    name: str
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

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.mask is not None or self.fcis is not None
