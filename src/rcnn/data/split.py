"""Divides a data set into parts, e.g. 80 % for training and 20 % for validation, the same way on every machine.

Each part gets nearly its fraction of the images, and of the objects of every class: iterative stratification (Sechidis,
Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-Label Data"), the rarest class first. Copies of an image,
including resized or recompressed ones, stay in one part, except images of a single colour. Images are ordered by
their content hashes, so the result depends neither on file names nor on a seed.

Letters: I images, G groups of similar images, K classes, P parts, E pairs of an image or group and one of its classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from rcnn.arguments import plain, wrong_type
from rcnn.data.messages import few
from rcnn.data.records import Dataset
from rcnn.data.similarity import Fingerprint, fingerprints, similar_groups
from rcnn.data.writing import image_sources

MIN_IMAGES = 10  # a data set of fewer images is not divided


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Objects per image (or group of images) and class. Zeros are left out: a full table needs 1 GB for LVIS.

    The pairs are unique, and sorted by image, then by class.
    """

    images: int  # I
    classes: int  # K
    image: np.ndarray  # (E,) int64
    label: np.ndarray  # (E,) int64
    count: np.ndarray  # (E,) int64

    @classmethod
    def of(cls, images: int, classes: int, image: np.ndarray, label: np.ndarray, count: np.ndarray) -> ClassCounts:
        """Add up the counts of the same image and class; `image`, `label` and `count` (N,) are in any order."""
        pairs, place = np.unique(image.astype(np.int64) * classes + label, return_inverse=True)
        total = np.bincount(place, weights=count, minlength=len(pairs)).astype(np.int64)
        return cls(images=images, classes=classes, image=pairs // classes, label=pairs % classes, count=total)

    def grouped(self, group: np.ndarray, groups: int) -> ClassCounts:
        """The counts per group of images; `group` (I,) is the group of each image, from 0 to `groups` - 1."""
        return ClassCounts.of(groups, self.classes, group[self.image], self.label, self.count)

    def without(self, left_out: np.ndarray) -> ClassCounts:
        """The counts without the classes that `left_out` (K,) marks."""
        kept = ~left_out[self.label]
        image, label, count = self.image[kept], self.label[kept], self.count[kept]
        return ClassCounts(images=self.images, classes=self.classes, image=image, label=label, count=count)

    def totals(self, images: Sequence[int] | None = None) -> np.ndarray:
        """Objects per class (K,) int64, in `images` or in all images."""
        kept = np.ones(len(self.image), dtype=bool) if images is None else np.isin(self.image, images)
        return np.bincount(self.label[kept], weights=self.count[kept], minlength=self.classes).astype(np.int64)


def divide(
    dataset: Dataset,
    fractions: Sequence[float],
    *,
    workers: int = 2,
    advance: Callable[[], None] | None = None,
) -> list[list[int]]:
    """The indices into `dataset` of the images of each part, in ascending order; a part may be empty.

    `fractions` are positive and add up to 1, e.g. (0.8, 0.2). Reads every image, in `workers` threads; `advance` is
    called once per image. Raises ValueError for other fractions, OSError for image files that cannot be read.
    """
    require_fractions(fractions)
    prints = fingerprints(image_sources(dataset), workers=workers, advance=advance)
    return divide_images(class_counts(dataset), prints, fractions)


def divide_images(counts: ClassCounts, prints: Sequence[Fingerprint], fractions: Sequence[float]) -> list[list[int]]:
    """Like `divide`, for images with known object counts per class and known fingerprints."""
    group = similar_groups(prints)
    members: dict[int, list[int]] = {}
    for index, first in enumerate(group.tolist()):
        members.setdefault(first, []).append(index)
    groups = sorted(members.values(), key=lambda indices: min(prints[index].content for index in indices))
    group_of_image = np.empty(len(prints), dtype=np.int64)
    for number, indices in enumerate(groups):
        group_of_image[indices] = number
    group_sizes = np.array([len(indices) for indices in groups])
    part = assign(counts.grouped(group_of_image, len(groups)), group_sizes, fractions)
    return [
        sorted(index for indices, own in zip(groups, part.tolist(), strict=True) if own == number for index in indices)
        for number in range(len(fractions))
    ]


def assign(objects: ClassCounts, images: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """The part (G,) int64 of each group, given its `objects` per class and its number of `images` (G,).

    A class that occurs in a single group cannot be divided: the group goes to the largest part (the training set), as
    long as that part lacks images. Then the groups with the rarest class are assigned, those with the most objects
    first; then the groups with the next class. Each group goes to the part in which the squared error of the shares of
    its classes and of the images, relative to the fraction of the part, grows least. (For images alone, this is the
    method of Sainte-Laguë, which divides seats among parties.)
    """
    groups, classes = objects.images, objects.classes
    alone = np.bincount(objects.label, minlength=classes) == 1  # (K,)
    shared = objects.without(alone)
    of_group = np.searchsorted(shared.image, np.arange(groups + 1))  # pairs of group g: of_group[g] to of_group[g + 1]
    by_class = np.argsort(shared.label, kind="stable")  # (E,)
    of_class = np.searchsorted(shared.label[by_class], np.arange(classes + 1))
    left = shared.totals()  # (K,) objects in groups without a part
    total = np.array([*np.maximum(1, left), images.sum()])  # (K + 1,), the last column for images
    given = np.zeros((len(fractions), classes + 1))  # share of each class, and of the images, in each part
    part = np.full(groups, -1, dtype=np.int64)

    def shares(group: int) -> tuple[np.ndarray, np.ndarray]:
        """The columns of `given` that a group adds to, and what it adds."""
        own = slice(of_group[group], of_group[group + 1])
        columns = np.append(shared.label[own], classes)
        return columns, np.append(shared.count[own], images[group]) / total[columns]

    def put(group: int, target: int) -> None:
        own = slice(of_group[group], of_group[group + 1])
        columns, share = shares(group)
        part[group] = target
        given[target, columns] += share
        left[shared.label[own]] -= shared.count[own]

    largest = int(np.argmax(fractions))
    for group in np.unique(objects.image[alone[objects.label]]).tolist():
        if given[largest, -1] + images[group] / total[-1] <= fractions[largest] + 1e-9:
            put(group, largest)
    while (part < 0).any():
        if left.any():
            rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
            pairs = by_class[of_class[rarest] : of_class[rarest + 1]]
            with_it, amount = shared.image[pairs], shared.count[pairs]
        else:  # the other groups have no objects of a class that can be divided
            with_it, amount = np.arange(groups), images
        open_groups = part[with_it] < 0
        with_it, amount = with_it[open_groups], amount[open_groups]
        for group in with_it[np.argsort(-amount, kind="stable")].tolist():
            columns, share = shares(group)
            growth = (given[:, columns] + share / 2) @ share / np.asarray(fractions)  # (P,)
            put(group, int(np.argmin(growth.round(12))))  # rounded, so that the first of equal parts is chosen
    return part


def class_counts(dataset: Dataset) -> ClassCounts:
    """Objects per image and class, without ignored ones."""
    own = ~dataset.objects.ignored
    image, label = dataset.objects.image_index[own], dataset.objects.labels[own]
    return ClassCounts.of(len(dataset), len(dataset.classes), image, label, np.ones(len(image), dtype=np.int64))


def absent_classes(classes: Sequence[str], part: np.ndarray, whole: np.ndarray) -> list[str]:
    """The `classes` (K,) without objects in a part that have objects elsewhere; `part` and `whole` (K,) are counts."""
    return [name for name, lost in zip(classes, (part == 0) & (whole > 0), strict=True) if lost]


def share_text(share: float, fraction: float, absent: Sequence[str]) -> str:
    """The share of the images in a part, the requested `fraction`, and the classes that the part lacks."""
    return f"{share:.1%} (requested: {fraction:.1%})" + (f"; no objects of {few(absent)}" if absent else "")


def require_fractions(fractions: Sequence[float]) -> list[float]:
    """`fractions` as numbers of Python; a ValueError unless they are two or more positive ones that add up to 1."""
    several = np.iterable(fractions) and not isinstance(fractions, bytes)
    if not several or not all(isinstance(plain(one), Real) and not isinstance(one, bool) for one in fractions):
        raise wrong_type(fractions, "the fractions", "a list of numbers that add up to 1, e.g. (0.8, 0.2)")
    fractions = [float(plain(one)) for one in fractions]
    positive = all(math.isfinite(one) and one > 0 for one in fractions)
    if len(fractions) < 2 or not positive or abs(sum(fractions) - 1) > 1e-6:
        shown = ", ".join(f"{one:g}" for one in fractions)
        raise ValueError(f"fractions {shown}: expected two or more positive numbers that add up to 1, e.g. 0.8, 0.2")
    return fractions
