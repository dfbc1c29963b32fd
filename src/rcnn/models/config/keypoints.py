"""Settings of the keypoint head, and COCO's keypoints of persons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rcnn.models.config.parts import PoolerConfig, plain_arguments

# COCO's person: the default for data sets that do not name their keypoints
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
DEFAULT_SIGMA = 0.067  # for keypoints without a sigma: the mean of COCO's


def default_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """The sigmas of keypoints for which the data set has none: COCO's for COCO's 17, else DEFAULT_SIGMA for each."""
    return COCO_SIGMAS if tuple(names) == COCO_KEYPOINTS else (DEFAULT_SIGMA,) * len(names)


@dataclass(frozen=True, kw_only=True)
class KeypointHeadConfig:
    """Keypoint branch (He et al. 2017, section 5): one map per keypoint, with the keypoint at its maximum."""

    trunk: Literal["convs", "fbnet"] = "convs"
    convs: int = 8
    width: int = 512
    pooler: PoolerConfig = field(default=PoolerConfig(size=14))  # the predicted maps are four times as large
    names: tuple[str, ...] = COCO_KEYPOINTS  # of the J keypoints
    flip_pairs: tuple[tuple[int, int], ...] = COCO_FLIP_PAIRS  # keypoints that a horizontal flip exchanges
    sigmas: tuple[float, ...] = COCO_SIGMAS  # annotators' deviation, relative to the object's size (COCO's OKS)
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs joined by a line in pictures; (): COCO's, for its 17 keypoints
    # the loss is divided by the visible keypoints, or by the keypoints of a full sample (Detectron2's option)
    normalizer: Literal["visible", "batch_size"] = "visible"
    loss_weight: float = 1.0
    factory: str = ""  # import path of what makes the user's own head (models/own.py); "": the head described here
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keyword arguments of the factory

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", plain_arguments(self.arguments, "keypoint.arguments"))
