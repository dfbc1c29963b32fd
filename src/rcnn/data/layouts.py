"""A folder and the name of a split -> Dataset, whatever the layout.

The annotation file of a split is looked for in the order of `ANNOTATIONS`, its images beside it and in the usual
folders; what the file holds (COCO or VIA) is told by its content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.data import coco, via
from rcnn.data.findings import close_to
from rcnn.data.records import Dataset

ANNOTATIONS = (  # where the annotation file of a split may be, within the data set's folder
    "annotations/instances_{split}.json",  # COCO
    "annotations/person_keypoints_{split}.json",  # COCO
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/via_region_data.json",  # VIA
    "{split}/annotations.json",
    "{split}.json",
)
IMAGES = ("{split}", "images/{split}", "{split}/images", "images", ".")  # where its images may be


def open_dataset(directory: Path | str, split: str, classes: Sequence[str] | None = None) -> Dataset:
    """The images and objects of one split of the data set in a folder.

    `classes` give the labels their names and order (a checkpoint's, say): each class that the split has objects of must
    be among them. Without them, labels follow ascending category ids.

    Raises FileNotFoundError where there is no such folder, split or image, ValueError for annotations that are wrong.
    """
    root = Path(directory)
    file = _annotation_file(root, split)
    data = coco.read_json(file)
    folders = [file.parent, *(root / pattern.format(split=split) for pattern in IMAGES)]
    folders = list(dict.fromkeys(folder for folder in folders if folder != root / "annotations"))
    if coco.is_coco(data):
        return coco.coco_dataset(data, root=root, split=split, file=file, folders=folders, classes=classes)
    if via.via_images(data) is None:
        raise ValueError(
            f"{file} holds neither COCO's annotations (an object with images, annotations and categories) nor VIA's "
            "(an object of entries with filename and regions); export it as one of these"
        )
    one_class = root.resolve().name
    tables, warnings = via.via_to_coco(data, file=file, one_class=one_class)
    dataset = coco.coco_dataset(
        tables,
        root=root,
        split=split,
        file=file,
        folders=folders,
        classes=classes,
        reader=partial(via.read_annotations, one_class=one_class),
    )
    return replace(dataset, warnings=warnings + dataset.warnings)


def splits(directory: Path | str) -> list[str]:
    """Names of the splits in a folder, sorted. Raises FileNotFoundError where there is none."""
    root = Path(directory)
    found = _found(root)
    if not found:
        raise FileNotFoundError(f"{_nothing(root)}; looked for {_looked_for(root, 'SPLIT')}")
    return found


def _found(root: Path) -> list[str]:
    names: set[str] = set()
    for pattern in ANNOTATIONS:
        before, after = pattern.split("{split}")
        shape = re.compile(re.escape(before) + "(?P<split>[^/]+)" + re.escape(after))
        for path in sorted(root.glob(pattern.format(split="*"))):
            named = shape.fullmatch(path.relative_to(root).as_posix())
            if named is None or not path.is_file():
                continue
            # Of files known by their ending alone, only those that have annotations count: not results, not settings.
            if pattern in ("{split}.json", "annotations/{split}.json") and not _annotates(path):
                continue
            names.add(named["split"])
    return sorted(name for name in names if not name.startswith(("instances_", "person_keypoints_", "captions_")))


def _annotates(file: Path) -> bool:
    """Whether a file has the words of COCO's or VIA's annotations, without parsing it."""
    content = file.read_bytes()
    return all(f'"{word}"'.encode() in content for word in ("images", "annotations", "categories")) or (
        b'"regions"' in content and b'"filename"' in content
    )


def _annotation_file(root: Path, split: str) -> Path:
    for pattern in ANNOTATIONS:
        file = root / pattern.format(split=split)
        if file.is_file():
            return file
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; wanted that of a data set, with {_looked_for(root, split)}")
    there = _found(root)
    if there:
        raise FileNotFoundError(
            f"{root} has no split {split!r}{close_to(split, there)}; it has {', '.join(there)}. "
            f"Looked for {_looked_for(root, split)}"
        )
    raise FileNotFoundError(f"{_nothing(root)}; looked for {_looked_for(root, split)}")


def _nothing(root: Path) -> str:
    """How to say that a folder has no annotations, and what to do."""
    if not root.is_dir():
        return f"{root} is not a folder"
    inside = [name for name in ("_annotations.coco.json", "via_region_data.json") if (root / name).is_file()]
    if inside:
        name = root.resolve().name
        return f"{root} holds {inside[0]}, so it is one split: give the folder above it, and {name} as the split"
    return f"{root} has no annotations of a known layout"


def _looked_for(root: Path, split: str) -> str:
    return ", ".join(str(root / pattern.format(split=split)) for pattern in ANNOTATIONS)
