"""The kinds of targets that a model needs from the data."""

from __future__ import annotations

from rcnn.data.targets import TargetOptions
from rcnn.models import DetectorConfig


def target_options(config: DetectorConfig) -> TargetOptions:
    """The kinds of targets that a model of `config` is trained on."""
    return TargetOptions(
        masks="bitmap" if config.fcis is not None else None if config.mask is None else config.mask.target,
        keypoints=config.keypoint is not None,
        crowds=config.rpn.legacy.crowd_ioa < 1,
        pairs=(config.keypoint.flip_pairs or None) if config.keypoint is not None else None,
    )
