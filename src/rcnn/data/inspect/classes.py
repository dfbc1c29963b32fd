"""Checks of the classes of several splits: those without objects in some or all of them, and rare similar names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from rcnn.data.defaults import is_training_split
from rcnn.data.inspect.images import leak_roles, same_classes
from rcnn.data.messages import Finding, Warnings
from rcnn.data.records import Dataset

# A class name may be misspelt if it has up to FEW_OBJECTS objects and a similar name has MANY_TIMES as many.
FEW_OBJECTS, MANY_TIMES = 3, 5
MAX_COMPARED = 100  # classes; longer lists have similar names that are correct


def class_findings(datasets: Sequence[Dataset]) -> list[Finding]:
    """The faults between the classes of the splits of a data set."""
    found: list[Finding] = []
    names = [_names_with_objects(dataset) for dataset in datasets]
    training_names = (own for dataset, own in zip(datasets, names, strict=True) if is_training_split(dataset.split))
    trained = set[str]().union(*training_names)
    for i, j in combinations(range(len(datasets)), 2):
        roles = leak_roles(datasets[i].split, datasets[j].split)
        if roles is not None and same_classes(datasets[i], datasets[j]):
            training, other = (i, j) if roles[0] == 0 else (j, i)
            untrained = names[other] - trained if trained else set[str]()
            found += _classes_not_in_training(datasets[training], datasets[other], names[other])
            found += _untrained_classes(datasets[training], datasets[other], untrained)
    found += _empty_categories(datasets, set[str]().union(*names))
    return [*found, *rare_similar_classes(datasets)]


def new_objects(datasets: Sequence[Dataset]) -> list[np.ndarray]:
    """Per split: (A,) bool, the objects that are not ignored, in images that no earlier split has."""
    seen: set[Path] = set()
    found: list[np.ndarray] = []
    for dataset in datasets:
        files = [dataset.folder / name for name in dataset.file_names]
        new = np.array([file not in seen for file in files], dtype=bool)
        found.append(new[dataset.objects.image_index] & ~dataset.objects.ignored)
        seen.update(files)
    return found


def _empty_categories(datasets: Sequence[Dataset], used: set[str]) -> list[Finding]:
    """The categories without objects, each in the first split that lists it; `used` are the names of the others.

    None if most are without objects: then they are a fixed list, e.g. COCO's 80 classes.
    """
    if not used or 2 * len(used) <= len({name for dataset in datasets for name in dataset.classes}):
        return []
    found: list[Finding] = []
    seen = set(used)
    for dataset in datasets:
        empty = [category["id"] for category in dataset.categories if category["name"] not in seen]
        seen.update(dataset.classes)
        warnings = Warnings(dataset.annotation_file)
        warnings.add("no objects in any split", "the class is not learned", empty, "category", kind="empty-category")
        found += warnings.findings()
    return found


def rare_similar_classes(datasets: Sequence[Dataset]) -> tuple[Finding, ...]:
    """Classes with few objects and a name that may be a misspelt name of a class with many objects."""
    if not datasets:
        return ()
    uses = Counter[str]()
    for dataset, new in zip(datasets, new_objects(datasets), strict=True):
        counts = np.bincount(dataset.objects.labels[new], minlength=len(dataset.classes))
        uses.update(dict(zip(dataset.classes, counts.tolist(), strict=True)))
    names = [name for name, count in uses.items() if count]
    if len(names) > MAX_COMPARED:  # long lists of classes have similar names
        return ()
    pairs = [
        f"{name!r} ({uses[name]}, like {many!r} with {uses[many]})"
        for name in names
        for many in names
        if uses[name] <= FEW_OBJECTS and uses[many] >= MANY_TIMES * uses[name] and _misspelt(name, many)
    ]
    warnings = Warnings(datasets[0].annotation_file)
    where = "in all splits together " if len(datasets) > 1 else ""
    what = f"very few objects {where}and a name like that of a class with many"
    action = "they are different classes; rename it if it is misspelt"
    warnings.add(what, action, pairs, "class", kind="rare-similar-class")
    return warnings.findings()


def _misspelt(name: str, other: str) -> bool:
    """Whether two names differ in one letter (names of 4 or more) or up to two (6 or more), apart from case."""
    a, b = name.casefold(), other.casefold()
    allowed = 2 if max(len(a), len(b)) >= 6 else 1
    return a != b and min(len(a), len(b)) >= 4 and _edit_distance(a, b) <= allowed


def _edit_distance(a: str, b: str) -> int:
    """Letters to insert, remove or replace to change `a` into `b` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def _classes_not_in_training(training: Dataset, other: Dataset, names: set[str]) -> tuple[Finding, ...]:
    missing = sorted(names - set(training.classes))
    warnings = Warnings(other.annotation_file)
    what = f"objects in split {other.split!r} but no category in split {training.split!r}"
    warnings.add(what, "these objects are ignored", missing, "class", kind="class-not-in-training")
    return warnings.findings()


def _untrained_classes(training: Dataset, other: Dataset, names: set[str]) -> tuple[Finding, ...]:
    untrained = sorted(names & set(training.classes))
    warnings = Warnings(other.annotation_file)
    what = f"objects in split {other.split!r} but none in split {training.split!r}"
    warnings.add(what, "they are not learned, so their AP is 0", untrained, "class", kind="untrained-class")
    return warnings.findings()


def _names_with_objects(dataset: Dataset) -> set[str]:
    return {dataset.classes[label] for label in np.unique(dataset.objects.labels).tolist()}
