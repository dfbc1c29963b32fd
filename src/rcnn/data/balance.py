"""Repeat-factor sampling: images with rare classes are repeated (Gupta et al. 2019, LVIS, section 3.1)."""

from __future__ import annotations

import numpy as np

from rcnn.data.records import Dataset


def repeat_factors(dataset: Dataset, threshold: float) -> np.ndarray:
    """How often each image is used per epoch, (I,) float64, 1 or more.

    A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)); an image has the largest factor of
    its classes. Crowds do not count, since they are not used in training; an image without objects has the factor 1.
    """
    objects = dataset.objects
    image = objects.image_index
    image, label = image[~objects.ignored], objects.labels[~objects.ignored]
    once = np.unique(np.stack([image, label], 1), axis=0)  # a class counts once per image
    fraction = np.bincount(once[:, 1], minlength=len(dataset.classes)) / max(1, len(dataset))
    with np.errstate(divide="ignore"):  # classes without objects are not used below
        class_factors = np.maximum(1.0, np.sqrt(threshold / fraction))
    factors = np.ones(len(dataset))
    np.maximum.at(factors, once[:, 0], class_factors[once[:, 1]])
    return factors


def spread(factors: np.ndarray, draw: float) -> np.ndarray:
    """Indices into `factors` (I,) for one epoch: on average, each occurs as often as its factor says.

    `draw`, in [0, 1), decides how fractions are rounded. Every epoch has the same length: the rounded sum of the
    factors.
    """
    length = round(float(factors.sum()))
    ends = np.cumsum(factors) * (length / factors.sum())
    ends[-1] = length  # exactly, whatever the rounding of the sum
    positions = np.minimum(np.floor(ends + draw), length)  # the sum may be rounded up if `draw` is near 1
    counts = np.diff(positions.astype(np.int64), prepend=0)
    return np.repeat(np.arange(len(factors)), counts)
