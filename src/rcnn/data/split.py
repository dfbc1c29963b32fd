"""Divides a data set into parts, e.g. 80 % for training and 20 % for validation, the same way on every machine.

Each part gets nearly its fraction of the objects of every class: iterative stratification (Sechidis, Tsoumakas and
Vlahavas 2011, "On the Stratification of Multi-Label Data"), the rarest class first. Copies of an image, also resized
or compressed again, stay in one part, except images of one colour. The order of the images is that of their content
hashes, so the result depends neither on file names nor on a seed.

Letters: I images, G groups of similar images, K classes, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rcnn.data.records import Dataset
from rcnn.data.similarity import Fingerprint, fingerprints, similar_groups

MIN_IMAGES = 10  # a data set of fewer images is not divided


def divide(
    dataset: Dataset,
    fractions: Sequence[float],
    *,
    workers: int = 2,
    advance: Callable[[], None] | None = None,
) -> list[list[int]]:
    """The places in `dataset` of the images of each part, in ascending order; a part may be empty.

    `fractions` are positive and add up to 1, e.g. (0.8, 0.2). Reads every image, in `workers` threads; `advance` is
    called once per image. Raises ValueError for other fractions, OSError for image files that cannot be read.
    """
    require_fractions(fractions)
    paths = [dataset.folder / name for name in dataset.file_names]
    return divide_images(class_counts(dataset), fingerprints(paths, workers=workers, advance=advance), fractions)


def divide_images(counts: np.ndarray, prints: Sequence[Fingerprint], fractions: Sequence[float]) -> list[list[int]]:
    """As `divide`, for images with `counts` (I, K) objects per class and known fingerprints."""
    group = similar_groups(prints)
    members: dict[int, list[int]] = {}
    for index, first in enumerate(group.tolist()):
        members.setdefault(first, []).append(index)
    groups = sorted(members.values(), key=lambda indices: min(prints[index].content for index in indices))
    objects = np.stack([counts[indices].sum(axis=0) for indices in groups])  # (G, K)
    part = assign(objects, np.array([len(indices) for indices in groups]), fractions)
    return [
        sorted(index for indices, own in zip(groups, part.tolist(), strict=True) if own == number for index in indices)
        for number in range(len(fractions))
    ]


def assign(objects: np.ndarray, images: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """The part (G,) int64 of each group, given its `objects` (G, K) per class and its number of `images` (G,).

    A class of one group alone cannot be divided: the group is in the largest part (the training set), as long as that
    lacks images. Of the others, groups with the rarest class are assigned first, those with most objects of it before
    others, each to the part that lacks most objects of that class; then to the part that lacks most images.
    """
    alone = (objects > 0).sum(axis=0) == 1  # (K,)
    amounts = np.concatenate([np.where(alone, 0, objects), images[:, None]], axis=1).astype(np.float64)  # (G, K + 1)
    lacking = np.outer(fractions, amounts.sum(axis=0))  # (P, K + 1)
    part = np.full(len(amounts), -1, dtype=np.int64)
    largest = int(np.argmax(fractions))
    for group in np.flatnonzero((objects[:, alone] > 0).any(axis=1)).tolist():
        if lacking[largest, -1] >= images[group]:
            part[group] = largest
            lacking[largest] -= amounts[group]
    while (part < 0).any():
        left = part < 0
        totals = amounts[left].sum(axis=0)
        totals[:-1][totals[:-1] == 0] = np.inf  # classes that are complete
        rarest = int(np.argmin(totals[:-1])) if np.isfinite(totals[:-1]).any() else -1
        with_it = np.flatnonzero(left & (amounts[:, rarest] > 0))
        for group in with_it[np.argsort(-amounts[with_it, rarest], kind="stable")].tolist():
            most = lacking[:, rarest] >= lacking[:, rarest].max() - 1e-9
            part[group] = int(np.argmax(np.where(most, lacking[:, -1], -np.inf)))
            lacking[part[group]] -= amounts[group]
    return part


def class_counts(dataset: Dataset) -> np.ndarray:
    """Objects per image and class (I, K) int64, without ignored ones."""
    image = dataset.objects.image_index
    own = ~dataset.objects.ignored
    counts = np.zeros((len(dataset), len(dataset.classes)), dtype=np.int64)
    np.add.at(counts, (image[own], dataset.objects.labels[own]), 1)
    return counts


def require_fractions(fractions: Sequence[float]) -> None:
    """Raise ValueError unless `fractions` are two or more positive numbers that add up to 1."""
    positive = all(math.isfinite(one) and one > 0 for one in fractions)
    if len(fractions) < 2 or not positive or abs(sum(fractions) - 1) > 1e-6:
        shown = ", ".join(f"{one:g}" for one in fractions)
        raise ValueError(f"fractions {shown}: expected two or more positive numbers that add up to 1, e.g. 0.8, 0.2")
