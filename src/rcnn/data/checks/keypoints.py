"""Keypoints of annotations: x, y, visibility of J points, the same in all annotations.

Letters: A annotations, J keypoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from rcnn.data.checks.numbers import number_rows
from rcnn.data.checks.tables import Category, Id, RawEntry
from rcnn.data.messages import Warnings, counted, few

SEEN = 2.0  # the visibility of a point that is visible
DROPPED = "no keypoints of these objects are used"


def check_keypoints(
    annotations: Sequence[RawEntry],
    categories: Sequence[Category],
    limits: np.ndarray,
    ids: Sequence[Id],
    warnings: Warnings,
) -> tuple[np.ndarray | None, bool]:
    """The keypoints (A, J, 3) float64, zeros for an object without; None if no object has usable keypoints.

    Also returns whether the keypoints cannot be used because the objects have different numbers of them.

    `categories` (A,) are those of the annotations, `limits` (A,) the largest coordinates that are accepted.
    """
    given = [place for place, entry in enumerate(annotations) if entry.get("keypoints") not in (None, [])]
    wrong = [place for place in given if not isinstance(annotations[place]["keypoints"], list)]
    warnings.add(
        "keypoints that are not a list [x, y, visibility, ...]",
        DROPPED,
        [ids[place] for place in wrong],
        kind="keypoint-form",
    )
    given = sorted({*given}.difference(wrong)) if wrong else given
    if not given:
        return None, False
    own = [ids[place] for place in given]
    flat, nested, unseen = _flattened([annotations[place]["keypoints"] for place in given])
    named = [len(categories[place].get("keypoints", ())) for place in given]
    warnings.add(
        "keypoints as a list of points",
        "read as x, y, visibility of each",
        [own[i] for i in nested],
        kind="keypoint-form",
    )
    flat, pairs = _with_visibility(flat, named)
    warnings.add(
        "keypoints without visibility",
        "all are treated as visible",
        [own[i] for i in sorted({*unseen, *pairs})],
        kind="keypoint-form",
    )
    count = _count(flat, named)
    if count is None:
        lengths = sorted({len(points) for points in flat})
        warnings.add(
            f"keypoints of different counts ({few(lengths)} numbers)",
            "no keypoints are used",
            own,
            kind="keypoint-count",
        )
        return None, True
    odd = [one for one, points in zip(own, flat, strict=True) if len(points) != 3 * count]
    warnings.add(
        f"keypoints that are not {3 * count} numbers (x, y, visibility of {count} points)",
        DROPPED,
        odd,
        kind="keypoint-count",
    )
    misnamed = [
        place
        for place, (points, number) in enumerate(zip(flat, named, strict=True))
        if len(points) == 3 * count and number not in (0, count)
    ]
    warnings.add(
        f"{counted(count, 'keypoint')}, but their categories name {few(sorted({named[place] for place in misnamed}))}",
        "a model with keypoints cannot be trained on them; correct the names",
        [own[place] for place in misnamed],
        kind="keypoint-count",
    )
    points = np.zeros((len(annotations), count, 3))
    points[given] = _checked(flat, count, limits[given], own, warnings)
    _check_counts(annotations, points, given, ids, warnings)
    return points, False


def _flattened(values: Sequence[list[Any]]) -> tuple[list[list[object]], list[int], list[int]]:
    """The values as flat lists; the indices of lists of points x, y, visibility, and of lists of points x, y."""
    flat: list[list[object]] = []
    nested: list[int] = []
    unseen: list[int] = []
    for place, value in enumerate(values):
        if all(isinstance(point, list) and len(point) == 3 for point in value):
            flat.append(list(chain.from_iterable(value)))
            nested.append(place)
        elif all(isinstance(point, list) and len(point) == 2 for point in value):
            flat.append([one for x, y in value for one in (x, y, SEEN)])
            unseen.append(place)
        else:
            flat.append(value)
    return flat, nested, unseen


def _with_visibility(flat: list[list[object]], named: Sequence[int]) -> tuple[list[list[object]], list[int]]:
    """The points, and the indices of those with two numbers per named point, which become visible points."""
    if any(names and len(points) == 3 * names for points, names in zip(flat, named, strict=True)):
        return flat, []  # with visibility: fewer numbers are fewer points
    pairs = [place for place, points in enumerate(flat) if named[place] and len(points) == 2 * named[place]]
    for place in pairs:
        points = flat[place]
        flat[place] = [one for i in range(0, len(points), 2) for one in (points[i], points[i + 1], SEEN)]
    return flat, pairs


def _count(flat: Sequence[Sequence[object]], named: Sequence[int]) -> int | None:
    """J: the number of names in the categories, if an object has it; else the most common number; None if unclear."""
    counts = Counter(len(points) // 3 if points and len(points) % 3 == 0 else 0 for points in flat)
    names = {number for number in named if number}
    if len(names) == 1 and counts[next(iter(names))]:
        return next(iter(names))
    counts.pop(0, None)
    common = counts.most_common(2)
    tie = len(common) == 2 and common[0][1] == common[1][1]
    if not common or tie or (len(names) > 1 and len(counts) > 1):
        return None
    return common[0][0]


def _checked(
    flat: Sequence[Sequence[object]], count: int, limits: np.ndarray, ids: Sequence[Id], warnings: Warnings
) -> np.ndarray:
    """The points (A, J, 3); points with numbers that cannot be used become zeros (not labelled)."""
    every = np.asarray(ids, dtype=object)
    rows, text = number_rows(flat, 3 * count)
    points = rows.reshape(-1, count, 3)
    fitting = np.array([len(one) == 3 * count for one in flat], dtype=bool)
    warnings.add("keypoints with numbers that are text", "read as numbers", every[text].tolist(), kind="text-number")
    wrong = np.logical_not((np.abs(points) <= limits[:, None, None]).all(axis=2))  # (A, J), NaN included
    points[wrong] = 0
    warnings.add(
        "a keypoint that is not 3 finite numbers, or far outside the image",
        "that point is treated as not labelled",
        every[fitting & wrong.any(axis=1)].tolist(),
        kind="bad-keypoint",
    )
    visibility = points[..., 2]
    odd = ~np.isin(visibility, (0, 1, 2))
    points[..., 2] = np.where(odd, np.where(visibility > 0, SEEN, 0.0), visibility)
    warnings.add(
        "a keypoint with a visibility other than 0, 1 and 2",
        "above 0 it is treated as visible",
        every[odd.any(axis=1)].tolist(),
        kind="bad-visibility",
    )
    return points


def _check_counts(
    annotations: Sequence[RawEntry], points: np.ndarray, given: Sequence[int], ids: Sequence[Id], warnings: Warnings
) -> None:
    """Report counts that contradict the points; COCO's metrics skip objects without labelled points."""
    seen = (points[..., 2] > 0).sum(axis=1).tolist()
    wrong = [ids[i] for i in given if annotations[i].get("num_keypoints", seen[i]) != seen[i]]
    warnings.add(
        "a num_keypoints that is not the number of its labelled keypoints", "counted again", wrong, kind="num-keypoints"
    )
