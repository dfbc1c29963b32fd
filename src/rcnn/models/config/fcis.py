"""Settings of FCIS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FCISConfig:
    """Fully convolutional instance segmentation (Li et al. 2017), in place of the box and mask heads.

    The three systems that have it differ in details; each is a setting. The defaults are the original's (MXNet).
    """

    width: int = 1024  # channels after the 1x1 convolution on c5 (the RPN reads c4)
    groups: int = 7  # k: position groups a side
    roi_size: int = 21  # cells a side of the pooled maps
    rounded_regions: bool = True  # region borders to whole pixels before pooling (original, chainer-fcis)
    delta_weights: tuple[float, float, float, float] = (5.0, 5.0, 2.0, 2.0)
    refine: bool = True  # pool a second time, from the boxes found
    sampling: Literal["ohem", "random"] = "ohem"  # the hardest regions (Shrivastava et al. 2016), or a random sample
    batch_size: int = 128
    positive_fraction: float = 0.25  # of a random sample
    positive_iou: float = 0.5
    background_iou: float = 0.0  # 0.1 on VOC
    mask_loss: Literal["regions", "pixels"] = "regions"  # a tenfold mean over regions, or a mean over objects' pixels
    # true masks: those of the object within its own box (original, chainer-fcis), or all of it that the region shows
    mask_within_box: bool = True
    mask_threshold: float = 0.4  # true and predicted masks are cut here
    mask_inclusive: bool = True  # a mask is set from the threshold on (original, chainer-fcis), or above it (ChainerCV)
    min_size: float = 2.0  # detections with a shorter side are dropped, pixels
    drop: Literal["before", "after"] = "before"  # voting, pixels of the input; or after it, pixels of the file
    nms_iou: float = 0.3
    vote_iou: float = 0.5  # masks overlapping a detection so much are averaged into its own; 0: no voting
    clip_votes: bool = False  # sums of votes are cut to [0, 1] (ChainerCV)
    score_threshold: float = 0.001
    max_detections: int = 100
