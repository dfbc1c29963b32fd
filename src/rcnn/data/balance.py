"""Which images are shown oftener, so that rare classes are learnt: repeat-factor sampling (Gupta et al. 2019, 3.1)."""

from __future__ import annotations

import numpy as np

from rcnn.data.records import Dataset


def repeat_factors(dataset: Dataset, threshold: float) -> np.ndarray:
    """How often each image is shown in a pass, (I,) float64, 1 or more.

    A class in a part f of the images wants max(1, sqrt(threshold / f)); an image as much as its rarest class does.
    Crowds count for nothing, since nothing is learnt from them; an image without objects has 1.
    """
    objects = dataset.objects
    image = np.repeat(np.arange(len(dataset)), np.diff(objects.starts))
    image, label = image[~objects.crowd], objects.labels[~objects.crowd]
    once = np.unique(np.stack([image, label], 1), axis=0)  # a class counts once in an image
    part = np.bincount(once[:, 1], minlength=len(dataset.classes)) / max(1, len(dataset))
    with np.errstate(divide="ignore"):  # of a class that no image has, nothing asks
        wanted = np.maximum(1.0, np.sqrt(threshold / part))
    factors = np.ones(len(dataset))
    np.maximum.at(factors, once[:, 0], wanted[once[:, 1]])
    return factors


def spread(factors: np.ndarray, draw: float) -> np.ndarray:
    """Indices into `factors` (I,) of one pass: each its factor times on average, rounded by `draw` in [0, 1).

    All passes are equally long: the factors' sum, rounded.
    """
    length = round(float(factors.sum()))
    ends = np.cumsum(factors) * (length / factors.sum())
    ends[-1] = length  # whatever the last digit of the sum
    places = np.minimum(np.floor(ends + draw), length)  # of a draw next to 1 the sum may be rounded up
    counts = np.diff(places.astype(np.int64), prepend=0)
    return np.repeat(np.arange(len(factors)), counts)
