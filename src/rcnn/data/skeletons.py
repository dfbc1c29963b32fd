"""The keypoints of a data set: their names, the pairs that a flip exchanges, and the lines that join them.

COCO's form: a category has "keypoints" (names) and "skeleton" (pairs, counted from 1). A category may have "sigmas"
too, one per name: the standard deviation of annotators relative to the object's scale. COCO's own file has none;
the published values are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.data.checks.tables import Category
from rcnn.data.messages import counted, few
from rcnn.data.records import Dataset

# Words in a name that mean left and right, e.g. "l_eye", "eyeL", "tl" (top left) and "nw".
OPPOSITES = (
    ("left", "right"), ("lft", "rgt"), ("lt", "rt"), ("l", "r"),
    ("tl", "tr"), ("bl", "br"), ("ul", "ur"), ("ll", "lr"), ("lb", "rb"), ("lu", "ru"), ("ld", "rd"),
    ("west", "east"), ("nw", "ne"), ("sw", "se"), ("左", "右"),
)  # fmt: skip
WORDS = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where a camelCase word starts
# x, y, visibility: what to add to annotated keypoints (the top left corner of a pixel) to get the centre of the pixel
HALF_PIXEL = np.array([0.5, 0.5, 0.0], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """The J keypoints of all objects of a data set."""

    names: tuple[str, ...]  # (J,)
    named: bool  # whether the file names them; otherwise they are keypoint_0, keypoint_1, ...
    pairs: tuple[tuple[int, int], ...]  # exchanged by a flip, e.g. left and right eye; indices from 0
    lines: tuple[tuple[int, int], ...]  # joined by a line in pictures; indices from 0
    sigmas: tuple[float, ...] | None  # (J,) where the file has them


def skeleton_of(dataset: Dataset) -> Skeleton:
    """The keypoints that all objects of `dataset` have.

    Raises ValueError, with the file and what is wrong in it, if there are no keypoints, if categories with objects have
    different keypoints, or if the numbers of names and of annotated keypoints differ.
    """
    file = dataset.annotation_file
    used = {int(label) for label in dataset.objects.labels.tolist()}
    known = [c for label, c in enumerate(dataset.categories) if c.get("keypoints") and (label in used or not used)]
    _require_same(known, dataset)
    count = _keypoint_count(dataset)
    if not known:
        names = tuple(f"keypoint_{number}" for number in range(count))
        return Skeleton(names=names, named=False, pairs=(), lines=(), sigmas=None)
    category = known[0]
    names = _names(category)
    if len(names) != count:
        raise ValueError(
            f"{file}: category {category['name']!r} names {counted(len(names), 'keypoint')}, but its annotations have "
            f"{count}; expected one name per keypoint"
        )
    sigmas = category.get("sigmas")
    return Skeleton(
        names=names,
        named=True,
        pairs=flip_pairs(names),
        lines=tuple((first - 1, second - 1) for first, second in category.get("skeleton", ())),
        sigmas=None if sigmas is None else tuple(sigmas),
    )


def require_names(dataset: Dataset, names: Sequence[str]) -> None:
    """Raise ValueError unless the keypoints of `dataset` have these `names`, in this order, or no names."""
    skeleton = skeleton_of(dataset)
    if skeleton.named and skeleton.names != tuple(names):
        raise ValueError(
            f"{dataset.annotation_file} has the keypoints {', '.join(skeleton.names)}; the model has "
            f"{', '.join(names)}. Use a data set with the keypoints of the model, in the same order"
        )
    if len(skeleton.names) != len(names):
        raise ValueError(
            f"{dataset.annotation_file} has {counted(len(skeleton.names), 'keypoint')} per object, the model has "
            f"{len(names)}. Use a data set with the keypoints of the model, in the same order"
        )


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The keypoints that a horizontal flip exchanges, by their names: left_eye and right_eye, eyeL and eyeR, tl and tr.

    Pairs (left, right) in the order of the left ones.
    """
    indices = {name.lower(): index for index, name in enumerate(names)}
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for index, name in enumerate(names):
        for other in _opposites(name):
            partner = indices.get(other.lower())
            if partner is not None and partner != index and not {index, partner} & taken:
                pairs.append((index, partner))
                taken |= {index, partner}
                break
    return tuple(pairs)


def describe_flip(names: Sequence[str], pairs: Sequence[tuple[int, int]], flip: float) -> str:
    """One line about the keypoints that a horizontal flip exchanges, or a warning that it exchanges none.

    `flip` is the probability of a flip in training.
    """
    if pairs:
        return f"a horizontal flip exchanges {', '.join(f'{names[a]} and {names[b]}' for a, b in pairs)}"
    if not flip:
        return "no keypoints are exchanged by a horizontal flip; train.flip=0"
    return (
        "warning: a horizontal flip exchanges no keypoints, since no two names are a left-right pair. If some "
        "keypoints are left and right, set keypoint.flip_pairs=[[1,2],[3,4]] (counted from 0), or train.flip=0"
    )


def _opposites(name: str) -> Iterator[str]:
    """Names that the partner of a left keypoint may have, the most certain first; none for other keypoints."""
    words = [part for word in WORDS.findall(name) for part in HUMP.split(word)]
    for left, right in OPPOSITES:
        if left in map(str.lower, words):
            yield "".join(right if word.lower() == left else word for word in words)
    lower = name.lower()
    for left, right in (("left", "right"), ("左", "右")):
        if left in lower:
            yield lower.replace(left, right)
    # lhip, rhip or hipl, hipr: names that differ in the first or the last letter only
    if len(lower) > 2 and lower.startswith("l"):
        yield "r" + lower[1:]
    if len(lower) > 2 and lower.endswith("l"):
        yield lower[:-1] + "r"


def _require_same(categories: Sequence[Category], dataset: Dataset) -> None:
    different: dict[tuple[str, ...], list[str]] = {}
    for category in categories:
        different.setdefault(_names(category), []).append(category["name"])
    if len(different) > 1:
        shown = "; ".join(f"{few(who)}: {len(names)} ({few(names, 3)})" for names, who in different.items())
        raise ValueError(
            f"{dataset.annotation_file} has categories with different keypoints ({shown}), and a model has one set for "
            "all of its classes: split the file by category, and train a model on each"
        )


def _keypoint_count(dataset: Dataset) -> int:
    """J, the number of keypoints per object. Raises ValueError if the data set has no keypoints that can be used."""
    points = dataset.objects.keypoints
    if points is not None:
        return points.shape[1]
    if dataset.keypoints_differ:
        raise ValueError(
            f"{dataset.annotation_file} has objects with different numbers of keypoints; expected the same number in "
            "all annotations (3 values per keypoint: x, y, visibility; 0, 0, 0 for a keypoint that is not labelled)"
        )
    raise ValueError(
        f"{dataset.annotation_file} has no keypoints, and this model is trained on them: use a file in which "
        'annotations have "keypoints", e.g. COCO\'s person_keypoints_SPLIT.json, or a model without keypoints '
        "(`rcnn models` lists them)"
    )


def _names(category: Category) -> tuple[str, ...]:
    return tuple(category.get("keypoints", ()))
