"""A folder and the name of a split -> Dataset, whatever the format of its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from rcnn.data.assemble import assemble
from rcnn.data.checks.check import KnownImages
from rcnn.data.checks.tables import Tables
from rcnn.data.formats import coco, labelme, lvis, mask_folder, refer, sbd, via, voc, yolo
from rcnn.data.formats.files import annotation_file, collector_paused, nothing_found, require_one_per_split
from rcnn.data.messages import counted
from rcnn.data.records import Dataset


class Format(Protocol):
    """What the module of a format offers. `annotations`: the path or pattern of its files, if it is not a usual one."""

    @property
    def NAME(self) -> str:
        """How users call the format, e.g. "labelme"."""
        ...

    def splits(self, folder: Path, annotations: str = "") -> set[str]:
        """Names of the splits that `folder` has in this format; a folder that is not divided has the split "all"."""
        ...

    def recognises(self, folder: Path, split: str, annotations: str = "") -> bool:
        """Whether `folder` has `split` in this format. Cheap: opens a file or two, and never raises."""
        ...

    def read(
        self,
        folder: Path,
        split: str,
        *,
        annotations: str = "",
        keypoints: bool = False,
        known: KnownImages | None = None,
    ) -> Tables:
        """The checked tables of a split.

        `keypoints` prefers annotations with keypoints where there are several; `known` images are not searched for
        again. Raises ValueError or OSError, with the file and what is wrong in it.
        """
        ...


# the first that recognises a split reads it
FORMATS: tuple[Format, ...] = (refer, lvis, coco, via, labelme, yolo, sbd, voc, mask_folder)


def open_dataset(
    directory: Path | str,
    split: str,
    classes: str | Sequence[str] | None = None,
    *,
    ignore_others: bool = False,
    keypoints: bool = False,
    one_class: bool = False,
    annotations: str = "",
    strict: bool = False,
    allow_empty: bool = False,
) -> Dataset:
    """The images and objects of one split of the data set in a folder.

    `classes` give the labels their names and order (e.g. those of a checkpoint). Objects of other classes are ignored
    with a warning, or without one if `ignore_others`. Without `classes`, labels follow ascending category ids.
    `keypoints` prefers COCO's person_keypoints_SPLIT.json to instances_SPLIT.json where both are there; `annotations`
    names the file within the folder, with "{split}" for the split: "labels/{split}_v2.json".
    `one_class` gives all objects the one class in `classes`, or "object", as proposals need it.

    Faulty objects and fields are repaired or skipped, and counted in `Dataset.warnings`; `strict` raises ValueError
    instead. A split without objects to train on is refused unless `allow_empty`.
    Raises FileNotFoundError for a missing folder, split or image, ValueError for files that cannot be understood.
    """
    folder = Path(directory)
    classes = (classes,) if isinstance(classes, str) else classes
    reader = partial(_read, folder, split, annotations, keypoints)
    with collector_paused():
        tables = reader(None)
        dataset = assemble(
            tables,
            root=folder,
            split=split,
            classes=None if one_class else classes,
            ignore_others=ignore_others,
            reader=reader,
        )
    if strict and dataset.warnings:
        raise ValueError(
            f"{counted(len(dataset.warnings), 'kind')} of faults, refused by strict=True (--strict):\n"
            + "\n".join(dataset.warnings)
        )
    if not allow_empty and not dataset.num_training_objects:
        raise ValueError("\n".join((_without_objects(dataset), *dataset.warnings)))
    return dataset.as_one_class(classes[0] if classes else "object") if one_class else dataset


def splits(directory: Path | str, annotations: str = "") -> list[str]:
    """Names of the splits in a folder, sorted; `annotations` as in `open_dataset`.

    Raises FileNotFoundError where there is none, ValueError for `annotations` that is one file for all splits.
    """
    folder = Path(directory)
    require_one_per_split(annotations)
    found = _splits(folder, annotations)
    if not found:
        raise nothing_found(folder, "", (), _patterns(annotations))
    return found


def _read(folder: Path, split: str, annotations: str, keypoints: bool, known: KnownImages | None) -> Tables:
    """As `read_tables`, but raises what the file is refused for; `known` images are not searched for again."""
    tables = _read_any(folder, split, annotations, keypoints, known)
    if tables.refusals:
        raise tables.refusals[0]
    return tables


def read_tables(folder: Path, split: str, *, annotations: str = "", keypoints: bool = False) -> Tables:
    """The checked tables of a split, without the entries that `open_dataset` would refuse: see Tables.refusals.

    Raises FileNotFoundError and ValueError where nothing can be read.
    """
    with collector_paused():
        return _read_any(folder, split, annotations, keypoints, None)


def _read_any(folder: Path, split: str, annotations: str, keypoints: bool, known: KnownImages | None) -> Tables:
    """The tables of a split in the first format that recognises it; `known` images are not searched for again."""
    chosen = next((one for one in FORMATS if one.recognises(folder, split, annotations)), None)
    if chosen is None:
        # a file in the place of an annotation file that no format recognises: COCO's reader says what is wrong with it
        if annotation_file(folder, split, _patterns(annotations)) is None:
            raise nothing_found(folder, split, _splits(folder, ""), _patterns(annotations))
        chosen = coco
    return chosen.read(folder, split, annotations=annotations, keypoints=keypoints, known=known)


def _splits(folder: Path, annotations: str) -> list[str]:
    if referring := refer.splits(folder, annotations):  # the other files in such a folder are no splits
        return sorted(referring)
    return sorted({name for one in FORMATS for name in one.splits(folder, annotations)})


def _patterns(annotations: str) -> Sequence[str]:
    """Where annotation files of a whole split may be, by their names."""
    return (annotations,) if annotations else tuple(dict.fromkeys((*coco.PATTERNS, *via.PATTERNS)))


def _without_objects(dataset: Dataset) -> str:
    crowds = int(dataset.objects.crowd.sum())
    only = f": its {counted(crowds, 'object')} {'is a crowd' if crowds == 1 else 'are crowds'}" if crowds else ""
    return (
        f"{dataset.annotation_file} has {counted(len(dataset), 'image')} and no objects to train or evaluate on{only}. "
        "Choose another split, export the annotations again, or accept this with allow_empty=True "
        "(--allow-empty)"
    )
