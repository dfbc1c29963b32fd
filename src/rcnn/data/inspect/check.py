"""`rcnn data check`: every fault of a data set, each with a stable id (checks/kinds.py).

Opening a data set finds most of them. This module adds checks that need the image files, several splits, or more time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.arguments import DATA, SPLIT, as_path, as_text, as_texts, require_switches, require_workers
from rcnn.data.assemble import CROWDS_AS_OBJECTS, assemble
from rcnn.data.checks.kinds import KINDS, Severity
from rcnn.data.checks.tables import Tables
from rcnn.data.defaults import is_named_as_test
from rcnn.data.formats.layouts import Location, locate, read_tables, splits_at
from rcnn.data.inspect.classes import class_findings, new_objects
from rcnn.data.inspect.images import (
    Copies,
    ImageFile,
    changed_copies,
    check_files,
    copy_findings,
    find_copies,
    image_files,
)
from rcnn.data.inspect.outlines import check_outlines
from rcnn.data.inspect.shared import shared_findings
from rcnn.data.messages import DataError, Finding, MissingImagesError, Warnings, close_to, counted
from rcnn.data.records import Dataset
from rcnn.data.selection import SplitPart, select
from rcnn.progress import Progress, no_progress
from rcnn.text_files import gc_paused

NEED_FILES = ("unreadable-image", "wrong-image-size", "leak", "changed-copy", "near-duplicate")


@dataclass(frozen=True, kw_only=True)
class CheckedSplit:
    """A split as it was read for a check."""

    tables: Tables
    dataset: Dataset
    files: list[ImageFile]  # empty if the images were not decoded


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `check_dataset` found."""

    root: Path
    images: dict[str, int]  # per split that can be read
    objects: dict[str, int]  # per split, without ignored ones
    total: tuple[int, int]  # images and objects of all splits; an image in several splits counts once
    findings: tuple[Finding, ...]  # errors first
    test_splits: tuple[str, ...] = ()  # without ground truth
    notes: tuple[str, ...] = ()  # decisions that are not about faults

    @classmethod
    def of(cls, path: Path | str, checked: Sequence[CheckedSplit], findings: Sequence[Finding]) -> CheckReport:
        """The report of `findings`; `checked` are the splits that could be read."""
        severities: tuple[Severity, ...] = ("error", "warning")
        return cls(
            root=Path(path),
            images={one.dataset.split: len(one.dataset) for one in checked},
            objects={one.dataset.split: one.dataset.num_training_objects for one in checked},
            total=_total([one.dataset for one in checked]),
            findings=tuple(one for severity in severities for one in findings if KINDS[one.kind].severity == severity),
            test_splits=tuple(one.dataset.split for one in checked if is_test_split(one.dataset)),
            notes=tuple(dict.fromkeys(note for one in checked for note in one.dataset.notes)),
        )

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make training or evaluation stop, skip something, or change a value."""
        return tuple(one for one in self.findings if KINDS[one.kind].severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Signs of poor annotations."""
        return tuple(one for one in self.findings if KINDS[one.kind].severity == "warning")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with up to 100 ids per finding, as they are in the file."""
        return {
            "data": str(self.root),
            "splits": {name: {"images": self.images[name], "objects": self.objects[name]} for name in self.images},
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": [
                {
                    "id": one.kind,
                    "severity": KINDS[one.kind].severity,
                    "file": str(one.file),
                    "split": one.split,
                    "what": one.what,
                    "action": one.action,
                    "entries": one.noun if one.ids else "",
                    "count": len(one.ids),
                    "ids": [value if isinstance(value, (int, str)) else str(value) for value in one.ids[:100]],
                    "names": list(one.names[:100]),
                }
                for one in self.findings
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The lines that `rcnn data check` prints."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """One line per finding and note, and a summary."""
        shown = [f"{KINDS[one.kind].severity} [{one.kind}]: {one.line()}" for one in self.findings]
        shown += [f"split {name} has no ground truth: `rcnn predict --data` uses it" for name in self.test_splits]
        shown += [f"note: {line}" for line in self.notes]
        checked = f"{counted(self.total[0], 'image')} and {counted(self.total[1], 'object')}"
        kinds = [(len(self.errors), "error"), (len(self.warnings), "warning")]
        found = ", ".join(counted(count, noun) for count, noun in kinds if count) or "no faults"
        splits = counted(len(self.images), "split") + (f" ({', '.join(self.images)})" if self.images else "")
        return [*shown, f"{found} in {checked} of {splits}"]


def check_dataset(
    path: Path | str,
    *,
    split: str | Path = "",
    annotations: str = "",
    keypoints: bool = False,
    images: str | Path = "",
    relative_boxes: bool = False,
    no_images: bool = False,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    workers: int = 2,
    progress: Progress | None = None,
) -> CheckReport:
    """Find the faults of a data set: of all its splits, or of those in `split` ("train", "train+val", "train:ids.txt").

    `annotations`, `keypoints`, `images`, `relative_boxes` as in `open_dataset`. With `no_images`, image files are not
    decoded. `only` and `skip` select findings by their ids. `workers` threads decode images. Raises FileNotFoundError
    for a folder without annotations, ValueError for an id that does not exist; faults of the data itself are in the
    report. If `split` is a list of images, faults of the annotation file are those of the whole file.
    """
    chosen, split = selected_kinds(only, skip), as_text(split, "split", SPLIT)
    workers = require_workers(workers)
    require_switches(no_images=no_images)
    checked, refused = read_splits(
        locate(
            as_path(path, "the data set", DATA),
            annotations,
            images=images,
            keypoints=keypoints,
            relative_boxes=relative_boxes,
        ),
        split,
        decode=not no_images and not chosen.isdisjoint(NEED_FILES),
        workers=workers,
        progress=progress or no_progress,
    )
    findings = [*refused, *findings_within_splits(checked), *findings_between_splits(checked)]
    return CheckReport.of(path, checked, [one for one in findings if one.kind in chosen])


def _total(datasets: Sequence[Dataset]) -> tuple[int, int]:
    """The numbers of images and objects; an image in several splits (REFER) counts once."""
    images = {dataset.folder / name for dataset in datasets for name in dataset.file_names}
    return len(images), sum(int(new.sum()) for new in new_objects(datasets))


def selected_kinds(only: str | Sequence[str], skip: str | Sequence[str]) -> set[str]:
    """The ids of the findings to report. Raises ValueError for an id that does not exist."""
    only, skip = as_texts(only, "only"), as_texts(skip, "skip")
    for one in (*only, *skip):
        if one not in KINDS:
            raise ValueError(
                f"no fault has the id {one!r}{close_to(one, sorted(KINDS))}; expected one of {', '.join(sorted(KINDS))}"
            )
    return set(only or KINDS) - set(skip)


def read_splits(
    location: Location, split: str, *, decode: bool, workers: int, progress: Progress
) -> tuple[list[CheckedSplit], list[Finding]]:
    """The splits that can be read, with their image files decoded if `decode`, and a finding for each other split.

    `split` as in `check_dataset`. Raises FileNotFoundError for a split that does not exist.
    """
    parts = select(location, split).parts if split else [SplitPart(split=name) for name in splits_at(location)]
    read: list[tuple[Tables, Dataset]] = []
    refused: list[Finding] = []
    for part in parts:
        try:
            tables = read_tables(location, part.split)
        except (ValueError, OSError) as error:
            missing = isinstance(error, FileNotFoundError) and not isinstance(error, MissingImagesError)
            if missing and (split or len(parts) == 1):
                raise  # there is no such split
            finding = _refusal(error, location.folder / location.annotations.replace("{split}", part.split))
            if finding not in refused:  # one damaged file may list several splits
                refused.append(finding)
            continue
        tables = part.of(tables)
        read.append((tables, _dataset(tables, location.folder, part.name)))
    total = sum(len(dataset) for _, dataset in read) if decode else 0
    with (progress if decode else no_progress)("decode images", total) as advance:
        checked = [
            CheckedSplit(
                tables=tables,
                dataset=dataset,
                files=image_files(
                    [dataset.folder / name for name in dataset.file_names], workers=workers, advance=advance
                )
                if decode
                else [],
            )
            for tables, dataset in read
        ]
    return checked, refused


def _dataset(tables: Tables, folder: Path, split: str) -> Dataset:
    with gc_paused():
        return assemble(
            tables, root=folder, split=split, classes=None, ignore_other_classes=False, reader=lambda known: tables
        )


def findings_within_splits(checked: Sequence[CheckedSplit]) -> list[Finding]:
    """The faults of each split by itself; they name the split if several have the same file (YOLO's data.yaml)."""
    return _of_each(checked, _findings_of)


def opening_findings(checked: Sequence[CheckedSplit]) -> list[Finding]:
    """Those of `findings_within_splits` that were found, and repaired or skipped, when the splits were opened."""
    return _of_each(checked, lambda one: one.dataset.findings)


def _of_each(
    checked: Sequence[CheckedSplit], findings_of: Callable[[CheckedSplit], Iterable[Finding]]
) -> list[Finding]:
    """The findings of all splits, each once, with the names of splits that share a file."""
    uses = Counter(one.dataset.annotation_file for one in checked)
    found: list[Finding] = []
    for one in checked:
        shared = uses[one.dataset.annotation_file] > 1
        found += [
            replace(each, split=one.dataset.split) if shared and each.kind != "missing-split" else each
            for each in findings_of(one)
        ]
    return list(dict.fromkeys(found))  # a missing split is a fault of the file, which every split of the file reports


def _findings_of(one: CheckedSplit) -> list[Finding]:
    """The faults of a split by itself."""
    dataset, warnings = one.dataset, Warnings(one.dataset.annotation_file, one.tables.names)
    found = [_refusal(error, dataset.annotation_file) for error in one.tables.refusals]
    found += dataset.findings
    if not dataset.num_training_objects and not is_test_split(dataset):
        ignored = len(dataset.objects.labels)
        only = f"only {counted(ignored, 'ignored object')} (crowds, difficult)" if ignored else "no objects"
        what = f"{dataset.annotation_file} has {counted(len(dataset), 'image')} and {only}"
        what += f"; to use crowds, {CROWDS_AS_OBJECTS}" if ignored else ""
        found.append(Finding(kind="no-objects", file=dataset.annotation_file, what=what, action="", ids=()))
    check_outlines(dataset, warnings)
    _check_repeated(dataset, warnings)
    if one.files:
        check_files(dataset, one.files, warnings)
    return [*found, *warnings.findings()]


def findings_between_splits(checked: Sequence[CheckedSplit]) -> list[Finding]:
    """The faults between splits: leaks, images that splits share, and classes without objects in some or all splits."""
    datasets = [one.dataset for one in checked]
    copies = copies_of(checked)
    found = copy_findings(datasets, copies)
    found += changed_copies(datasets, [one.files for one in checked], copies)
    found += shared_findings(datasets, [one.files for one in checked])
    return found + class_findings(datasets)


def is_test_split(dataset: Dataset) -> bool:
    """Whether a split consists of test images without ground truth."""
    named = dataset.annotation_file.name.startswith("image_info_") or is_named_as_test(dataset.split)
    return named and not len(dataset.objects.labels)


def copies_of(checked: Sequence[CheckedSplit]) -> list[Copies]:
    """Images that are copies of others; if images were not decoded, only those with the same path."""
    return find_copies([one.dataset for one in checked], [one.files for one in checked])


def repeated_objects(dataset: Dataset) -> np.ndarray:
    """Indices (N,) of the objects that have the image, class, box and iscrowd of an earlier object."""
    objects = dataset.objects
    image = objects.image_index
    rows = np.column_stack([image, objects.labels, objects.ignored, objects.boxes])
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(rows)), first)


def _check_repeated(dataset: Dataset, warnings: Warnings) -> None:
    ids = dataset.objects.ids[repeated_objects(dataset)].tolist()
    warnings.add("the image, class, box and iscrowd of another annotation", "all are used", ids, kind="repeated-object")


def _refusal(error: Exception, file: Path) -> Finding:
    """The finding for an annotation file that is refused with `error`."""
    kind = error.kind if isinstance(error, (DataError, MissingImagesError)) else "unreadable-annotations"
    return Finding(kind=kind, file=file, what=str(error), action="the file is refused", ids=())
