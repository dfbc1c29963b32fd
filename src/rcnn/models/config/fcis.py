"""Settings of FCIS."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcnn.models.config.legacy import LegacyFCISConfig
from rcnn.models.config.parts import RegionSamplingConfig

FCIS_SAMPLING = RegionSamplingConfig(batch_size=128, positive_fraction=0.25, positive_iou=0.5)


@dataclass(frozen=True, kw_only=True)
class FCISConfig:
    """Fully convolutional instance segmentation (Li et al. 2017), in place of the box and mask heads."""

    width: int = 1024  # channels after the 1x1 convolution on c5 (the RPN reads c4)
    groups: int = 7  # k: position groups per side
    roi_size: int = 21  # cells per side of the pooled maps
    delta_weights: tuple[float, float, float, float] = (5.0, 5.0, 2.0, 2.0)
    loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factors of the class, box and mask losses
    refine: bool = True  # pool a second time, from the predicted boxes
    # VOC: min_negative_iou 0.1. positive_fraction has no effect with ohem
    sampling: RegionSamplingConfig = FCIS_SAMPLING
    ohem: bool = True  # sample the regions with the highest losses (Shrivastava et al. 2016); False: random ones
    mask_threshold: float = 0.4  # ground-truth and predicted masks are binarized here
    min_size: float = 2.0  # detections with a shorter side are removed, pixels
    nms_iou: float = 0.3
    vote_iou: float = 0.5  # masks with at least this IoU with a detection are averaged into its mask; 0: no voting
    score_threshold: float = 0.001
    max_detections: int = 100  # per image
    legacy: LegacyFCISConfig = field(default_factory=LegacyFCISConfig)
