"""The Semantic Boundaries Dataset (Hariharan et al. 2011): instances of VOC's 20 classes in MATLAB files.

benchmark_RELEASE/dataset/ has img/ID.jpg, inst/ID.mat and the lists train.txt and val.txt. `GTinst` in a .mat file has
`Segmentation`, the instance of each pixel counted from 1, and `Categories`, the class of each instance counted from 1.

The metric is that of VOC 2007: the benchmark of Hariharan et al. 2014 (SDS), and MNC and FCIS after it, take the mean
precision at 11 recalls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.tables import RawEntry, Tables
from rcnn.data.folders import images_in
from rcnn.data.formats.files import visible
from rcnn.data.formats.many_files import instances, named_tables
from rcnn.data.formats.matlab import read_struct
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.voc import CLASSES
from rcnn.data.formats.voc_masks import BACKGROUND
from rcnn.data.messages import SKIPPED, Warnings, counted, few
from rcnn.text_files import lines_of

NAME = "SBD"
SPLIT_FILES = "{split}.txt beside img/ and inst/"
PLACES = ("", "dataset", "benchmark_RELEASE/dataset", "benchmark/benchmark_RELEASE/dataset")


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the lists of images: train and val, and others that users add, e.g. train_noval."""
    place = _place(folder)
    if annotations or place is None:
        return set()
    return {file.stem for file in visible(place.glob("*.txt")) if file.is_file()}


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has SBD's layout and the list of `split`."""
    return split in splits(folder, annotations)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. Images have SBD's ids (2008_000002) as text, objects that id and their number.

    Only `options.known` has an effect. Raises ValueError or OSError with the file and what is wrong in it.
    """
    place = _place(folder)
    if place is None:
        raise FileNotFoundError(f"{folder} has no folders img and inst of SBD")
    list_file = place / f"{split}.txt"
    ids = list(dict.fromkeys(line.split()[0] for line in lines_of(list_file)))
    warnings = Warnings(list_file)
    missing = [one for one in ids if not os.path.isfile(place / "inst" / f"{one}.mat")]
    if missing and len(missing) == len(ids):
        raise FileNotFoundError(
            f"{list_file} lists {counted(len(ids), 'image')} ({few(ids)}), none of them in inst/: copy their .mat "
            "files there, or choose another split"
        )
    warnings.add("no .mat file in inst", SKIPPED, missing, "image", kind="unreadable-file")
    names = images_in(place / "img")
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    absent = set(missing)
    for one in ids:
        file = place / "inst" / f"{one}.mat"
        maps = None if one in absent else _maps(file, warnings)
        if maps is not None:
            path = place / "img" / names.get(one, f"{one}.jpg")
            images.append({"id": one, "file_name": path.relative_to(folder).as_posix()})
            found += _objects(one, *maps, warnings)
    if ids and not images:
        raise ValueError(
            f"{list_file} lists {counted(len(ids), 'image')}, none of them with a .mat file that can be read "
            f"(GTinst with Segmentation and Categories): {len(missing)} missing, {len(ids) - len(missing)} damaged; "
            "copy or download inst/ again"
        )
    raw = named_tables(
        file=list_file,
        root=folder,
        folders=(folder,),
        images=images,
        annotations=found,
        names=CLASSES,
        metric="voc2007",
    )
    return check_tables(raw, warnings, options.known)


def _place(folder: Path) -> Path | None:
    """The folder with img and inst; None if there is none."""
    places = (folder / place for place in PLACES)
    return next((place for place in places if (place / "img").is_dir() and (place / "inst").is_dir()), None)


def _maps(file: Path, warnings: Warnings) -> tuple[np.ndarray, np.ndarray] | None:
    """The instances (H, W) and the classes (N,) in a .mat file; None, with a warning, if it cannot be read."""
    try:
        content = read_struct(file, "GTinst")
        segmentation, classes = content["Segmentation"], content["Categories"].reshape(-1)
        if segmentation.ndim != 2 or segmentation.dtype.kind not in "iu":
            raise ValueError("another type")
        return segmentation.astype(np.int64), classes.astype(np.float64)
    except (OSError, ValueError, KeyError):
        what = "a .mat file that is damaged, or has no GTinst with Segmentation and Categories"
        warnings.add(what, SKIPPED, [file.stem], "image", kind="unreadable-file")
        return None


def _objects(image_id: str, segmentation: np.ndarray, classes: np.ndarray, warnings: Warnings) -> Iterator[RawEntry]:
    """The instances of an image."""
    for number, _, mask in instances(segmentation, BACKGROUND):
        name = f"{image_id}:{number}"
        label = float(classes[number - 1]) if 0 < number <= len(classes) else 0.0
        if not label.is_integer() or not 0 < label <= len(CLASSES):
            warnings.add(f"no class from 1 to {len(CLASSES)} in Categories", SKIPPED, [name], kind="no-class")
            continue
        category = CLASSES[int(label) - 1]
        yield {"id": name, "image_id": image_id, "category": category, "iscrowd": 0, "segmentation": mask}
