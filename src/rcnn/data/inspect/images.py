"""Checks of image files: whether they can be decoded, their sizes, and which of them are copies of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from pathlib import Path

import numpy as np

from rcnn.background import DaemonThreads
from rcnn.data.defaults import is_training_split
from rcnn.data.images import ImageError, read_image
from rcnn.data.messages import Finding, Warnings, brief
from rcnn.data.records import Dataset
from rcnn.data.similarity import NEAR, Fingerprint, fingerprint, has_near, similar_groups

EVALUATION = ("val", "test", "dev", "minival", "superminival", "eval")
SAME_PHOTOS = (  # what to do about copies in a split of LVIS and one of COCO
    "known: LVIS annotates COCO's photos, and its val has photos of COCO's train2017. This is not a fault, but do not "
    "use this split to evaluate a model that was trained on {training!r}"
)
NO_PRINT = Fingerprint(content="", perceptual_hash=None)


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """The result of decoding an image file."""

    size: tuple[int, int] | None  # height, width; None for a file that cannot be decoded
    error: str = ""
    print: Fingerprint = NO_PRINT


def image_files(paths: Sequence[Path], *, workers: int, advance: Callable[[], None]) -> list[ImageFile]:
    """Decode every file in `workers` threads; `advance` is called once per file."""
    found: list[ImageFile] = []
    with DaemonThreads(workers) as pool:
        for one in pool.map(_image_file, paths):
            found.append(one)
            advance()
    return found


def _image_file(path: Path) -> ImageFile:
    try:
        _, height, width = read_image(path).shape
        return ImageFile(size=(height, width), print=fingerprint(path))
    except (ImageError, OSError) as error:
        return ImageFile(size=None, error=str(error))


def check_files(dataset: Dataset, files: Sequence[ImageFile], warnings: Warnings) -> None:
    """Report images that cannot be decoded, and images of another size than their annotations say."""
    action = "skipped in training; counted in evaluation as an image without detections"
    sizes = [tuple(size) for size in dataset.sizes.tolist()]
    broken = [(image, one.error) for image, one in zip(dataset.image_ids, files, strict=True) if one.size is None]
    if broken:
        what = f"a file that cannot be decoded, e.g. {broken[0][1]}"
        warnings.add(what, action, [image for image, _ in broken], "image", kind="unreadable-image")
    wrong = [
        (image, size, one.size)
        for image, size, one in zip(dataset.image_ids, sizes, files, strict=True)
        if one.size is not None and one.size != size
    ]
    if wrong:
        image, stated, found = wrong[0]
        what = (
            f"a height and width other than those of its file, e.g. {stated[0]} x {stated[1]} instead of "
            f"{found[0]} x {found[1]} for image {image}"
        )
        warnings.add(what, action, [image for image, _, _ in wrong], "image", kind="wrong-image-size")


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The images of two splits, or of one, that are the same or nearly the same as one in the other split."""

    splits: tuple[int, int]  # indices of the splits; equal for copies within a split
    first: list[int]  # indices of images of the first split, ascending
    second: list[int]  # the same of the second
    example: tuple[int, int] | None = None  # an image and its copy; None for two splits


def find_copies(datasets: Sequence[Dataset], files: Sequence[Sequence[ImageFile]]) -> list[Copies]:
    """The copies within each split, and between a training and an evaluation split.

    `files` are those of all splits, or empty lists: then only images with the same path are found.
    """
    paths = [[os.path.realpath(one.folder / name) for name in one.file_names] for one in datasets]
    prints = [[one.print for one in own] for own in files]
    found: list[Copies] = []
    for i, j in combinations_with_replacement(range(len(datasets)), 2):
        if i == j:
            found += _copies_within(i, paths[i], prints[i])
        elif leak_roles(datasets[i].split, datasets[j].split) is not None:
            found += _copies_between((i, j), (paths[i], paths[j]), (prints[i], prints[j]))
    return found


def _copies_within(split: int, paths: Sequence[str], prints: Sequence[Fingerprint]) -> list[Copies]:
    """The copies among the images of a split. Images with one path are not reported: opening the data set does."""
    places = sorted({path: place for place, path in reversed([*enumerate(paths)])}.values()) if prints else []
    group = similar_groups([prints[place] for place in places])
    sizes = np.bincount(group, minlength=len(group))
    copied = [place for place, own in zip(places, group.tolist(), strict=True) if sizes[own] > 1]
    if not copied:
        return []
    first, *others = copied
    example = next(place for place in others if _is_copy(prints[first], prints[place]))
    names = {paths[place] for place in copied}
    every = [place for place, path in enumerate(paths) if path in names]
    return [Copies(splits=(split, split), first=every, second=every, example=(first, example))]


def _copies_between(
    splits: tuple[int, int], paths: tuple[Sequence[str], Sequence[str]], prints: Sequence[Sequence[Fingerprint]]
) -> list[Copies]:
    """The copies in two splits, each with the `paths` and `prints` of its images."""
    hashes = [[one.perceptual_hash for one in own] for own in prints]
    faint = [{one.content for one in own if one.low_contrast} for own in prints]
    copied: list[list[int]] = []
    for own, other in ((0, 1), (1, 0)):
        known = set(paths[other])
        same = np.array([path in known for path in paths[own]], dtype=bool)
        if prints[own] and prints[other]:
            same |= has_near(hashes[own], hashes[other])
            same |= np.array([one.low_contrast and one.content in faint[other] for one in prints[own]], dtype=bool)
        copied.append(np.flatnonzero(same).tolist())
    return [Copies(splits=splits, first=copied[0], second=copied[1])] if copied[0] else []


def _is_copy(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two images are the same or nearly the same."""
    if one.perceptual_hash is None or other.perceptual_hash is None:
        return one.low_contrast and other.low_contrast and one.content == other.content
    return (one.perceptual_hash ^ other.perceptual_hash).bit_count() <= NEAR


def copy_findings(datasets: Sequence[Dataset], copies: Sequence[Copies]) -> list[Finding]:
    """An error for copies in a training and an evaluation split, a warning for those within a split.

    LVIS and COCO are two data sets with the same photos, so copies in a split of each are only warned of.
    """
    found: list[Finding] = []
    for one in copies:
        if one.example is not None:
            dataset = datasets[one.splits[0]]
            warnings = Warnings(dataset.annotation_file)
            ids = [dataset.image_ids[place] for place in one.first]
            pair = " and ".join(brief(dataset.image_ids[place]) for place in one.example)
            what = f"an exact or slightly changed copy in the same split, e.g. {pair}"
            warnings.add(what, "all are used", ids, "image", kind="near-duplicate")
            found += warnings.findings()
        elif (roles := leak_roles(datasets[one.splits[0]].split, datasets[one.splits[1]].split)) is not None:
            training, evaluation = (datasets[one.splits[role]] for role in roles)
            places = (one.first, one.second)[roles[1]]
            warnings = Warnings(evaluation.annotation_file)
            what = f"an exact or slightly changed copy in split {training.split!r}"
            kind, action = "leak", "metrics of this split are too high"
            if not same_classes(training, evaluation):
                kind, action = "shared-images", SAME_PHOTOS.format(training=training.split)
            warnings.add(what, action, [evaluation.image_ids[place] for place in places], "image", kind=kind)
            found += warnings.findings()
    return found


def changed_copies(
    datasets: Sequence[Dataset], files: Sequence[Sequence[ImageFile]], copies: Sequence[Copies]
) -> list[Finding]:
    """A warning for images of an evaluation split that are mirrored in a training split, or have other borders there.

    Images that are among the `copies` are not reported again.
    """
    found: list[Finding] = []
    known = {one.splits: (one.first, one.second) for one in copies}
    for i, j in combinations(range(len(datasets)), 2):
        if (roles := leak_roles(datasets[i].split, datasets[j].split)) is None or not (files[i] and files[j]):
            continue
        if not same_classes(datasets[i], datasets[j]):
            continue
        training, evaluation = (datasets[(i, j)[role]] for role in roles)
        changed = _changed(*((files[i], files[j])[role] for role in roles))
        places = sorted(set(changed) - set(known[i, j][roles[1]] if (i, j) in known else ()))
        warnings = Warnings(evaluation.annotation_file)
        what = f"a mirrored copy, or one with other borders, in split {training.split!r}"
        action = "metrics of this split may be too high"
        warnings.add(what, action, [evaluation.image_ids[place] for place in places], "image", kind="changed-copy")
        found += warnings.findings()
    return found


def _changed(training: Sequence[ImageFile], evaluation: Sequence[ImageFile]) -> list[int]:
    """Indices into `evaluation` of the images that are, mirrored or without borders, like one in `training`."""
    known = [found for one in training for found in (one.print.perceptual_hash, one.print.trimmed)]
    own = [one.print for one in evaluation]
    hashes = [found for one in own for found in (one.perceptual_hash, one.trimmed, one.mirrored)]
    return np.flatnonzero(has_near(hashes, known).reshape(-1, 3).any(axis=1)).tolist()


def same_classes(first: Dataset, second: Dataset) -> bool:
    """Whether two splits are meant to have the same classes: both are LVIS', or neither is."""
    return (first.metric == "lvis") == (second.metric == "lvis")


def leak_roles(first: str, second: str) -> tuple[int, int] | None:
    """Which of two splits (0 or 1) is for training and which for evaluation; None if they may share images.

    The names decide. Two training splits, two evaluation splits (val2014 and minival2014), and splits with other names
    (part1, unlabeled2017) may share images, and trainval with all but test.
    """
    names = (first.lower(), second.lower())
    training = next((role for role, name in enumerate(names) if is_training_split(name)), None)
    if training is None or not names[1 - training].startswith(EVALUATION):
        return None
    if names[training].startswith("trainval") and not names[1 - training].startswith("test"):
        return None
    return training, 1 - training
