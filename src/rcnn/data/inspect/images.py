"""Checks of image files: whether they can be decoded, their sizes, and which of them are copies of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rcnn.background import DaemonThreads
from rcnn.data.images import ImageError, read_image
from rcnn.data.messages import Finding, Warnings
from rcnn.data.records import Dataset
from rcnn.data.similarity import Fingerprint, fingerprint, low_contrast_copies, near_pairs

TRAINING = ("train",)  # starts of the names of splits
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
    """Pairs of images that are the same or nearly the same: `first[i]` of one split and `second[i]` of the other."""

    splits: tuple[int, int]  # indices of the splits; equal for pairs within a split
    first: list[int]  # indices of images
    second: list[int]


def find_copies(datasets: Sequence[Dataset], files: Sequence[Sequence[ImageFile]]) -> list[Copies]:
    """The copies within each split and between splits. Without `files`, only those with the same path are found."""
    if len(datasets) < 2 and not any(files):
        return []
    paths = [[os.path.realpath(one.folder / name) for name in one.file_names] for one in datasets]
    split = np.repeat(np.arange(len(datasets)), [len(one) for one in paths])
    place = np.concatenate([np.arange(len(one)) for one in paths]) if paths else np.zeros(0, dtype=np.int64)
    prints = [one.print for own in files for one in own]
    pairs = {(i, j) for i, j in near_pairs([one.perceptual_hash for one in prints]).tolist()}
    pairs.update(low_contrast_copies(prints))
    seen: dict[str, list[int]] = {}
    for number, path in enumerate(path for own in paths for path in own):
        for earlier in seen.setdefault(path, []):
            if split[earlier] == split[number]:
                pairs.discard((earlier, number))  # opening the data set reports these
            else:
                pairs.add((earlier, number))
        seen[path].append(number)
    grouped: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in sorted(pairs):
        grouped.setdefault((int(split[i]), int(split[j])), []).append((int(place[i]), int(place[j])))
    return [
        Copies(splits=key, first=[i for i, _ in found], second=[j for _, j in found])
        for key, found in sorted(grouped.items())
    ]


def copy_findings(datasets: Sequence[Dataset], copies: Sequence[Copies]) -> list[Finding]:
    """An error for copies in a training and an evaluation split, a warning for those within a split.

    LVIS and COCO are two data sets with the same photos, so copies in a split of each are only warned of.
    """
    found: list[Finding] = []
    for one in copies:
        if one.splits[0] == one.splits[1]:
            dataset = datasets[one.splits[0]]
            warnings = Warnings(dataset.annotation_file)
            ids = [dataset.image_ids[place] for place in sorted({*one.first, *one.second})]
            pair = f"{dataset.image_ids[one.first[0]]} and {dataset.image_ids[one.second[0]]}"
            what = f"an exact or slightly changed copy in the same split, e.g. {pair}"
            warnings.add(what, "all are used", ids, "image", kind="near-duplicate")
            found += warnings.findings()
        elif (roles := leak_roles(datasets[one.splits[0]].split, datasets[one.splits[1]].split)) is not None:
            training, evaluation = (datasets[one.splits[role]] for role in roles)
            places = sorted(set((one.first, one.second)[roles[1]]))
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
    known = {one.splits: set(zip(one.first, one.second, strict=True)) for one in copies}
    for i, j in combinations(range(len(datasets)), 2):
        if (roles := leak_roles(datasets[i].split, datasets[j].split)) is None or not (files[i] and files[j]):
            continue
        if not same_classes(datasets[i], datasets[j]):
            continue
        pairs = _changed_pairs(files[i], files[j]) - known.get((i, j), set())
        training, evaluation = (datasets[(i, j)[role]] for role in roles)
        places = sorted({pair[roles[1]] for pair in pairs})
        warnings = Warnings(evaluation.annotation_file)
        what = f"a mirrored copy, or one with other borders, in split {training.split!r}"
        action = "metrics of this split may be too high"
        warnings.add(what, action, [evaluation.image_ids[place] for place in places], "image", kind="changed-copy")
        found += warnings.findings()
    return found


def _changed_pairs(first: Sequence[ImageFile], second: Sequence[ImageFile]) -> set[tuple[int, int]]:
    """The pairs (index in `first`, index in `second`) of which one is like the other mirrored or without borders."""
    plain = [[one.print.perceptual_hash for one in own] for own in (first, second)]
    trimmed = [[one.print.trimmed for one in own] for own in (first, second)]
    mirrored = [one.print.mirrored for one in second]
    hashes = [*plain[0], *trimmed[0], *plain[1], *trimmed[1], *mirrored]
    split = 2 * len(first)  # the hashes of `second` start here
    return {(a % len(first), (b - split) % len(second)) for a, b in near_pairs(hashes).tolist() if a < split <= b}


def is_training_split(name: str) -> bool:
    """Whether a split is for training, by its name."""
    return name.lower().startswith(TRAINING)


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
