"""The settings of the keypoint head that follow from the keypoints of a data set."""

from __future__ import annotations

from dataclasses import replace

from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.models.config import COCO_KEYPOINTS, DEFAULT_SIGMA, KeypointHeadConfig, default_sigmas


def keypoints_of(dataset: Dataset, config: KeypointHeadConfig) -> KeypointHeadConfig:
    """`config` with the names, flip pairs, skeleton and sigmas of the keypoints in `dataset`.

    A file without sigmas gets COCO's for COCO's 17 keypoints, else DEFAULT_SIGMA for each. In a file without names, 17
    keypoints are assumed to be COCO's. ValueError as for `skeleton_of`.
    """
    skeleton = skeleton_of(dataset)
    if not skeleton.named and len(skeleton.names) == len(COCO_KEYPOINTS):
        person = KeypointHeadConfig()
        return replace(config, names=person.names, flip_pairs=person.flip_pairs, sigmas=person.sigmas)
    sigmas = skeleton.sigmas or default_sigmas(skeleton.names)
    return replace(config, names=skeleton.names, flip_pairs=skeleton.pairs, skeleton=skeleton.lines, sigmas=sigmas)


def describe_keypoints(dataset: Dataset, config: KeypointHeadConfig) -> list[str]:
    """The keypoints of `dataset`, and what was assumed about them, one sentence per line."""
    skeleton = skeleton_of(dataset)
    lines = [f"{len(config.names)} keypoints of {dataset.annotation_file}: {', '.join(config.names)}"]
    if not skeleton.named and config.names == COCO_KEYPOINTS:
        lines.append("the file does not name its 17 keypoints: they are assumed to be COCO's")
    if skeleton.sigmas is None and config.sigmas == (DEFAULT_SIGMA,) * len(config.names):
        lines.append(
            f'the file has no "sigmas" (the precision of each keypoint) in its category: each is {DEFAULT_SIGMA}, the '
            "mean of COCO's"
        )
    return lines
