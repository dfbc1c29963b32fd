"""Augmentation of training samples: image, boxes, outlines, bitmaps and keypoints change together."""

from rcnn.data.transforms.augment import Augmentation, augment, augmented_size, resized_and_flipped, size_when_decoded
from rcnn.data.transforms.colour import jitter
from rcnn.data.transforms.geometry import flip, preprocess, to_input
from rcnn.data.transforms.sample import Sample
from rcnn.data.transforms.steps import (
    Affine,
    Blur,
    ColourJitter,
    CopyPaste,
    OwnStep,
    RandomCrop,
    ScaleJitter,
    Step,
)

__all__ = [
    "Affine",
    "Augmentation",
    "Blur",
    "ColourJitter",
    "CopyPaste",
    "OwnStep",
    "RandomCrop",
    "Sample",
    "ScaleJitter",
    "Step",
    "augment",
    "augmented_size",
    "flip",
    "jitter",
    "preprocess",
    "resized_and_flipped",
    "size_when_decoded",
    "to_input",
]
