"""Settings of the keypoint head, and what COCO says of its persons' keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rcnn.models.config.heads import Pooling

# COCO's person: what a keypoint data set without names of its own is taken for
COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
COCO_FLIP_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
DEFAULT_SIGMA = 0.067  # of keypoints that nobody gave one: the mean of COCO's


@dataclass(frozen=True, kw_only=True)
class KeypointHeadConfig:
    """Keypoint branch (He et al. 2017, section 5): a map for each keypoint, in which one place is it."""

    features: Literal["convs", "fbnet"] = "convs"
    convs: int = 8
    width: int = 512
    pooling: Pooling = "roi_align"
    roi_size: int = 14  # the maps are four times as large
    sampling_ratio: int = 0
    aligned: bool = True
    names: tuple[str, ...] = COCO_KEYPOINTS  # of the J keypoints
    flip_pairs: tuple[tuple[int, int], ...] = COCO_FLIP_PAIRS  # which change places in a mirror
    sigmas: tuple[float, ...] = COCO_SIGMAS  # how far off annotators are, in sides of the object (COCO's OKS)
    skeleton: tuple[tuple[int, int], ...] = ()  # keypoints joined by a line in pictures; none given: COCO's for its 17
    # the loss is divided by the keypoints that are seen, or by those that the sample could hold (Detectron2's option)
    normalizer: Literal["visible", "batch_size"] = "visible"
    loss_weight: float = 1.0
