"""Finds the images of a data set that cannot be used, by the headers of their files, before a run starts.

Damage behind the header is found when an image is decoded; see loading/batches.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rcnn.background import DaemonThreads
from rcnn.data.images import ImageError, image_size
from rcnn.data.messages import Warnings, counted
from rcnn.data.records import Dataset
from rcnn.data.targets import require_size

THREADS = 8  # that read headers: mostly they wait for the disk
CHUNK = 100  # images that a thread reads at a time
FAULTS = {  # kind of fault -> what the line says
    "unreadable-image": "a file that cannot be read",
    "wrong-image-size": "another size than in the annotations",
}
Advance = Callable[[int], object]  # receives numbers of images whose headers were read


def without_unreadable(dataset: Dataset, advance: Advance, *, strict: bool, allow_empty: bool) -> Dataset:
    """The images that can be read and have the size of their annotations; the warnings name the others.

    Raises ValueError if there are others and `strict`, if no image is left, or none with objects unless `allow_empty`.
    """
    problems = _problems_of(dataset, advance)
    if not problems:
        return dataset
    warnings = _warnings(dataset, problems, "not trained on", strict=strict)
    kept = dataset.subset([place for place in range(len(dataset)) if place not in problems])
    if not allow_empty and not kept.num_training_objects:
        raise ValueError("\n".join(("the images that can be read have no objects to train on", *warnings.lines())))
    return replace(kept, warnings=(*kept.warnings, *warnings.lines()))


def report_unreadable(dataset: Dataset, advance: Advance, *, strict: bool) -> Dataset:
    """The same data set for evaluation; the warnings name the images that count as images without detections.

    Raises ValueError if there are such images and `strict`, and if no image can be read.
    """
    problems = _problems_of(dataset, advance)
    if not problems:
        return dataset
    warnings = _warnings(dataset, problems, "images without detections in evaluation", strict=strict)
    return replace(dataset, warnings=(*dataset.warnings, *warnings.lines()))


def _warnings(dataset: Dataset, problems: dict[int, tuple[str, str]], action: str, *, strict: bool) -> Warnings:
    """A warning per kind of fault. Raises ValueError if no image is left, or if `strict`."""
    warnings = Warnings(dataset.annotation_file)
    for kind, what in FAULTS.items():
        reasons = {place: reason for place, (own, reason) in problems.items() if own == kind}
        if reasons:
            ids = [dataset.image_ids[place] for place in reasons]
            warnings.add(f"{what}, e.g. {next(iter(reasons.values()))}", action, ids, "image", kind=kind)
    if len(problems) == len(dataset):
        raise ValueError("\n".join((f"none of {counted(len(dataset), 'image')} can be used", *warnings.lines())))
    if strict:
        head = "refused by strict=True (--strict): repair these images, or do not use strict"
        raise ValueError("\n".join((head, *warnings.lines())))
    return warnings


def _problems_of(dataset: Dataset, advance: Advance) -> dict[int, tuple[str, str]]:
    """The images that cannot be used: index -> kind of the fault, and what is wrong. None if they are not files."""
    problems = dict[int, tuple[str, str]]()
    places = range(len(dataset)) if dataset.has_files else range(0)
    chunks = [places[start : start + CHUNK] for start in places[::CHUNK]]
    with DaemonThreads(THREADS) as pool:
        for found in pool.map(partial(_problems_at, dataset), chunks):
            problems |= found
            advance(CHUNK)
    return problems


def _problems_at(dataset: Dataset, places: Sequence[int]) -> dict[int, tuple[str, str]]:
    """The same for the images at `places`."""
    found = dict[int, tuple[str, str]]()
    for place in places:
        path = dataset.folder / dataset.file_names[place]
        try:
            if image_size(path, late_exif=False) != tuple(dataset.sizes[place].tolist()):
                require_size(dataset[place], image_size(path))
        except (ImageError, OSError) as error:
            found[place] = "unreadable-image", str(error)
        except ValueError as error:
            found[place] = "wrong-image-size", str(error)
    return found
