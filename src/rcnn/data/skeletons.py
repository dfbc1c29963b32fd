"""What the keypoints of a data set are: their names, which of them a mirror exchanges, the lines that join them.

COCO's form: a category has "keypoints" (names) and "skeleton" (pairs, counted from 1). A category may have "sigmas"
too, one for each name: how far off annotators are, in sides of the object. COCO's own file has none; they are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcnn.data.records import Dataset
from rcnn.data.transforms import mirror_pairs
from rcnn.data.warnings import few


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """The J keypoints of all objects of a data set."""

    names: tuple[str, ...]  # (J,)
    named: bool  # by the file; else they are keypoint_0, keypoint_1, ...
    pairs: tuple[tuple[int, int], ...]  # which a mirror exchanges: left and right eye
    lines: tuple[tuple[int, int], ...]  # joined in pictures, counted from 0
    sigmas: tuple[float, ...] | None  # (J,) where the file says them


def skeleton_of(dataset: Dataset) -> Skeleton:
    """The keypoints that all objects of `dataset` have.

    Raises ValueError, naming the file and what is wrong in it, where there are none, where categories with objects have
    different ones, or where names and annotations are not of one number.
    """
    file = dataset.annotation_file
    points = dataset.objects.keypoints
    used = {int(label) for label in dataset.objects.labels.tolist()}
    known = [c for label, c in enumerate(dataset.categories) if c.get("keypoints") and (label in used or not used)]
    _require_same(known, dataset)
    if points is None:
        odd = [line for line in dataset.warnings if "keypoints of different" in line]
        raise ValueError(
            odd[0]
            if odd
            else f"{file} has no keypoints, and this model learns them: take a file whose annotations have "
            '"keypoints", as COCO\'s person_keypoints_SPLIT.json, or a model without (`rcnn models` lists them)'
        )
    count = points.shape[1]
    if not known:
        names = tuple(f"keypoint_{number}" for number in range(count))
        return Skeleton(names=names, named=False, pairs=(), lines=(), sigmas=None)
    category = known[0]
    names = _names(category)
    if len(names) != count:
        raise ValueError(
            f"{file}: category {category['name']!r} names {len(names)} keypoints, its annotations have {count}: "
            "give each its name"
        )
    if len(set(names)) < count:
        raise ValueError(f"{file}: category {category['name']!r} names two keypoints alike: {', '.join(names)}")
    return Skeleton(
        names=names,
        named=True,
        pairs=mirror_pairs(names),
        lines=_lines(category, count, dataset),
        sigmas=_sigmas(category, count, dataset),
    )


def require_names(dataset: Dataset, names: Sequence[str]) -> None:
    """A ValueError unless the keypoints of `dataset` are those called `names`, in this order, or have no names."""
    skeleton = skeleton_of(dataset)
    if skeleton.named and skeleton.names != tuple(names):
        raise ValueError(
            f"{dataset.annotation_file} has the keypoints {', '.join(skeleton.names)}; the model's are "
            f"{', '.join(names)}: take a data set with those, in that order"
        )
    if len(skeleton.names) != len(names):
        raise ValueError(
            f"{dataset.annotation_file} has {len(skeleton.names)} keypoints an object, the model {len(names)}"
        )


def _require_same(categories: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    different: dict[tuple[str, ...], list[str]] = {}
    for category in categories:
        different.setdefault(_names(category), []).append(str(category["name"]))
    if len(different) > 1:
        told = "; ".join(f"{few(who)}: {len(names)} ({few(names, 3)})" for names, who in different.items())
        raise ValueError(
            f"{dataset.annotation_file} has categories with different keypoints ({told}), and a model has one set for "
            "all of its classes: split the file by category, and train a model on each"
        )


def _names(category: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in category["keypoints"])


def _lines(category: dict[str, Any], count: int, dataset: Dataset) -> tuple[tuple[int, int], ...]:
    lines = category.get("skeleton") or []
    whole = all(
        isinstance(line, list) and len(line) == 2 and all(isinstance(end, int) and 1 <= end <= count for end in line)
        for line in lines
    )
    if not whole:
        raise ValueError(
            f"{dataset.annotation_file}: category {category['name']!r} has the skeleton {str(lines)[:80]}; wanted "
            f"pairs of keypoints, counted from 1 to {count}"
        )
    return tuple((first - 1, second - 1) for first, second in lines)


def _sigmas(category: dict[str, Any], count: int, dataset: Dataset) -> tuple[float, ...] | None:
    sigmas = category.get("sigmas")
    if sigmas is None:
        return None
    if len(sigmas) != count or not all(isinstance(one, (int, float)) and one > 0 for one in sigmas):
        raise ValueError(
            f"{dataset.annotation_file}: category {category['name']!r} has the sigmas {str(sigmas)[:80]}; wanted "
            f"{count} numbers above 0"
        )
    return tuple(float(one) for one in sigmas)
