"""Images that several splits of a data set have: splits with other classes, or with other objects in these images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from rcnn.data.defaults import TRAINING
from rcnn.data.inspect.images import EVALUATION, ImageFile, leak_roles, same_classes
from rcnn.data.messages import Finding, Warnings
from rcnn.data.records import Dataset

USUAL = (*TRAINING, *EVALUATION, "all")  # starts of the names of splits that say what the split is for


def shared_findings(datasets: Sequence[Dataset], files: Sequence[Sequence[ImageFile]]) -> list[Finding]:
    """The faults of splits that share image files; `files` may be empty lists.

    An error for classes that only one of the splits lists, and for two annotation files that disagree; a warning for
    images that two splits share, if the name of neither says what it is for. A split with masks and one with boxes only
    may differ in their objects, as VOC's do. LVIS annotates COCO's photos with other classes, so its splits are only
    compared with each other. Copies in a training and an evaluation split are found elsewhere.
    """
    found: list[Finding] = []
    keys = [_keys(dataset, own) for dataset, own in zip(datasets, files, strict=True)]
    for i, j in combinations(range(len(datasets)), 2):
        first, second = datasets[i], datasets[j]
        if not same_classes(first, second):
            continue
        pairs = [(keys[i][key], place) for key, place in keys[j].items() if key in keys[i]]
        if not pairs:
            continue
        found += _different_classes(first, second, [a for a, _ in pairs])
        found += _different_classes(second, first, [b for _, b in pairs])
        if leak_roles(first.split, second.split) is None and first.has_outlines == second.has_outlines:
            found += _shared(first, second, pairs)
    return found


def _keys(dataset: Dataset, files: Sequence[ImageFile]) -> dict[str, int]:
    """The path of each image, and the hash of its content if it is known and has contrast, -> its index."""
    paths = (os.path.normpath(dataset.folder / name) for name in dataset.file_names)
    keys = {path: index for index, path in enumerate(paths)}
    prints = ((index, one.print) for index, one in enumerate(files))
    contents = {one.content: index for index, one in prints if one.perceptual_hash is not None}
    return keys | contents


def _different_classes(first: Dataset, second: Dataset, images: Sequence[int]) -> tuple[Finding, ...]:
    """The classes with objects in `images` of one split that the other split, with the same images, does not list."""
    own = np.isin(first.objects.image_index, images)
    names = {first.classes[label] for label in np.unique(first.objects.labels[own]).tolist()}
    warnings = Warnings(first.annotation_file)
    what = f"objects in images of split {first.split!r} that split {second.split!r} has too, without this class"
    action = "check the class names of both splits, or annotate the missing objects"
    warnings.add(what, action, sorted(names - set(second.classes)), "class", kind="different-classes")
    return warnings.findings()


def _shared(first: Dataset, second: Dataset, pairs: Sequence[tuple[int, int]]) -> tuple[Finding, ...]:
    """The images that two splits share, with different objects or, if the names of both are unusual, the same."""
    warnings = Warnings(second.annotation_file)
    places = sorted({b for a, b in pairs if _objects(first, a) != _objects(second, b)})
    what = f"other objects in split {first.split!r} ({first.annotation_file})"
    action = "a run uses the file of the split it trains on: remove the wrong file"
    warnings.add(what, action, [second.image_ids[b] for b in places], "image", kind="two-label-files")
    if not places and not any(one.split.lower().startswith(USUAL) for one in (first, second)):
        same = [second.image_ids[b] for b in sorted({b for _, b in pairs})]
        what = f"the same objects in split {first.split!r} ({first.annotation_file})"
        warnings.add(what, "do not train on one and evaluate on the other", same, "image", kind="shared-images")
    return warnings.findings()


def _objects(dataset: Dataset, image: int) -> list[tuple[str, list[float]]]:
    """The class and the rounded box of each object of an image, sorted."""
    own = slice(int(dataset.objects.starts[image]), int(dataset.objects.starts[image + 1]))
    boxes = dataset.objects.boxes[own].round().tolist()
    return sorted(zip([dataset.classes[label] for label in dataset.objects.labels[own].tolist()], boxes, strict=True))
