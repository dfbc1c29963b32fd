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

from rcnn.data.formats import coco, via
from rcnn.data.records import Dataset
from rcnn.data.warnings import close_to

KEYPOINTS = "annotations/person_keypoints_{split}.json"  # COCO's other file, of persons alone
ANNOTATIONS = (  # where the annotation file of a split may be, within the data set's folder
    "annotations/instances_{split}.json",  # COCO
    KEYPOINTS,
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/via_region_data.json",  # VIA
    "{split}/annotations.json",
    "{split}.json",
)
BESIDE = ("_annotations.coco", "via_region_data")  # names of files that lie among the images of their split
# Beginnings of names that are not a split's, where a split is known by its file's ending alone.
NO_SPLITS = ("instances_", "person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_", *BESIDE)
IMAGES = ("{split}", "images/{split}", "{split}/images", "images", ".")  # where its images may be


def open_dataset(
    directory: Path | str,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    ignore_others: bool = False,
    keypoints: bool = False,
    one_class: bool = False,
    annotations: str = "",
) -> Dataset:
    """The images and objects of one split of the data set in a folder.

    `classes` give the labels their names and order (a checkpoint's, say): each class that the split has objects of must
    be among them, or its objects are left out by `ignore_others`. Without them, labels follow ascending category ids.
    Where COCO's instances_SPLIT.json and person_keypoints_SPLIT.json both are there, `keypoints` takes the second;
    `annotations` names the file, within the folder, "{split}" in it standing for the split: "labels/{split}_v2.json".
    `one_class` takes all objects for things of the one class in `classes`, or of "object": what finds proposals learns.

    Raises FileNotFoundError where there is no such folder, split or image, ValueError for annotations that are wrong.
    """
    if one_class:
        whole = open_dataset(directory, split, keypoints=keypoints, annotations=annotations)
        return whole.as_one_class(classes[0] if classes else "object")
    root = Path(directory)
    patterns = (KEYPOINTS, *ANNOTATIONS) if keypoints else ANNOTATIONS
    file = _annotation_file(root, split, (annotations,) if annotations else patterns)
    folders = [file.parent, *(root / pattern.replace("{split}", split) for pattern in IMAGES)]
    folders = list(dict.fromkeys(folder for folder in folders if folder != root / "annotations"))
    build = partial(
        coco.coco_dataset,
        root=root,
        split=split,
        file=file,
        folders=folders,
        classes=classes,
        ignore_others=ignore_others,
    )
    with coco.collector_paused():
        data = coco.read_json(file)
        if via.via_images(data) is None:
            return build(data)
        name = root.resolve().name
        tables, warnings = via.via_to_coco(data, file=file, one_class=name)
        dataset = build(tables, reader=partial(via.read_annotations, one_class=name))
    return replace(dataset, warnings=warnings + dataset.warnings)


def splits(directory: Path | str, annotations: str = "") -> list[str]:
    """Names of the splits in a folder, sorted; `annotations` as in `open_dataset`.

    Raises FileNotFoundError where there is none, ValueError for `annotations` that are one file for all splits.
    """
    root = Path(directory)
    if annotations and "{split}" not in annotations:
        raise ValueError(f"annotations {annotations!r} are one file: write {{split}} where the name of a split stands")
    patterns = (annotations,) if annotations else ANNOTATIONS
    found = _found(root, patterns)
    if not found:
        raise FileNotFoundError(f"{_nothing(root)}; looked in it for {_patterns('SPLIT', patterns)}")
    return found


def _found(root: Path, patterns: Sequence[str] = ANNOTATIONS) -> list[str]:
    names: set[str] = set()
    for pattern in patterns:
        before, after = pattern.split("{split}")
        shape = re.compile(re.escape(before) + "(?P<split>[^/]+)" + re.escape(after))
        for path in sorted(root.glob(pattern.replace("{split}", "*"))):
            named = shape.fullmatch(path.relative_to(root).as_posix())
            if named is None or not path.is_file():
                continue
            # Of files known by their ending alone, only those that have annotations count: not results, not settings.
            if pattern in ("{split}.json", "annotations/{split}.json") and (
                path.name.startswith(NO_SPLITS) or not _annotates(path)
            ):
                continue
            names.add(named["split"])
    return sorted(names)


def _annotates(file: Path) -> bool:
    """Whether a file has the words of COCO's or VIA's annotations, without parsing it."""
    content = file.read_bytes()
    return all(f'"{word}"'.encode() in content for word in ("images", "annotations", "categories")) or (
        b'"regions"' in content and b'"filename"' in content
    )


def _annotation_file(root: Path, split: str, patterns: Sequence[str]) -> Path:
    for pattern in patterns:
        file = root / pattern.replace("{split}", split)
        if file.is_file():
            return file
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; wanted that of a data set, with one of {_patterns(split)}")
    if len(patterns) == 1:
        raise FileNotFoundError(f"{root} has no {_patterns(split, patterns)}, the annotations asked for")
    there = _found(root)
    if there:
        raise FileNotFoundError(
            f"{root} has no split {split!r}{close_to(split, there)}; it has {', '.join(there)}. "
            f"Looked in it for {_patterns(split)}"
        )
    raise FileNotFoundError(f"{_nothing(root)}; looked in it for {_patterns(split)}")


def _nothing(root: Path) -> str:
    """How to say that a folder has no annotations, and what to do."""
    if not root.is_dir():
        return f"{root} is not a folder"
    inside = [f"{name}.json" for name in BESIDE if (root / f"{name}.json").is_file()]
    if inside:
        name = root.resolve().name
        return f"{root} holds {inside[0]}, so it is one split: give the folder above it, and {name} as the split"
    return f"{root} has no annotations of a known layout"


def _patterns(split: str, patterns: Sequence[str] = ANNOTATIONS) -> str:
    return ", ".join(pattern.replace("{split}", split) for pattern in patterns)
