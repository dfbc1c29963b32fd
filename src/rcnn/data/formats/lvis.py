"""LVIS v1: COCO's tables, with images named by URL, and lists of the classes that were verified in each image.

Gupta et al. 2019; https://www.lvisdataset.org. The end of `coco_url` gives the path of an image, e.g.
train2017/000000391895.jpg; images of val are in both train2017/ and val2017/. `neg_category_ids` and
`not_exhaustive_category_ids` of images, and `frequency` of classes, are kept for LVIS' metric.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rcnn.data.checks.tables import Tables
from rcnn.data.formats import coco
from rcnn.data.formats.files import annotation_file, find_splits
from rcnn.data.formats.options import ReadOptions

NAME = "LVIS"
PATTERNS = ("annotations/lvis_v1_{split}.json", "lvis_v1_{split}.json")
SPLIT_FILES = ", ".join(pattern for pattern in PATTERNS if "{split}" in pattern)


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits in `folder`; files with other names (`annotations`) are read as COCO's."""
    return set() if annotations else find_splits(folder, PATTERNS, lambda file: True)


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has an LVIS file of `split`."""
    return not annotations and annotation_file(folder, split, PATTERNS) is not None


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. Raises ValueError or OSError, with the file and what is wrong in it."""
    file = annotation_file(folder, split, PATTERNS)
    if file is None:
        raise FileNotFoundError(f"{folder} has no LVIS annotation file of split {split!r}")
    tables = coco.read(folder, split, replace(options, annotations=file.relative_to(folder).as_posix()))
    return replace(tables, metric="lvis")
