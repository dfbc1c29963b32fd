"""From the keypoints of a data set to the settings of the head that learns them."""

from __future__ import annotations

from dataclasses import replace

from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.models.config import COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA, KeypointHeadConfig


def keypoints_of(dataset: Dataset, config: KeypointHeadConfig) -> KeypointHeadConfig:
    """`config` with the names, flip pairs, skeleton and sigmas of the keypoints in `dataset`.

    Sigmas that the file does not say are COCO's for its 17 keypoints, else DEFAULT_SIGMA for each. Keypoints without
    names are taken for COCO's where they are 17. ValueError as of `skeleton_of`.
    """
    skeleton = skeleton_of(dataset)
    if not skeleton.named and len(skeleton.names) == len(COCO_KEYPOINTS):
        person = KeypointHeadConfig()
        return replace(config, names=person.names, flip_pairs=person.flip_pairs, sigmas=person.sigmas)
    sigmas = skeleton.sigmas
    if sigmas is None:
        sigmas = COCO_SIGMAS if skeleton.names == COCO_KEYPOINTS else (DEFAULT_SIGMA,) * len(skeleton.names)
    return replace(config, names=skeleton.names, flip_pairs=skeleton.pairs, skeleton=skeleton.lines, sigmas=sigmas)


def describe_keypoints(dataset: Dataset, config: KeypointHeadConfig) -> list[str]:
    """What is taken for granted about the keypoints of `dataset`, in words."""
    skeleton = skeleton_of(dataset)
    told = [f"{len(config.names)} keypoints of {dataset.annotation_file}: {', '.join(config.names)}"]
    if not skeleton.named and config.names == COCO_KEYPOINTS:
        told.append("the file does not name its 17 keypoints: they are taken for COCO's")
    if skeleton.sigmas is None and config.sigmas == (DEFAULT_SIGMA,) * len(config.names):
        told.append(
            f'the file does not say how exact its keypoints are (a category\'s "sigmas"): each has {DEFAULT_SIGMA}, '
            "the mean of COCO's"
        )
    return told
