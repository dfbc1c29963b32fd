"""COCO's format: one JSON file per split with the tables images, annotations and categories. Also Roboflow's and LVIS'.

Lin et al. 2014; https://cocodataset.org/#format-data. LVIS v1 names its image files by URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.checks.check import KnownImages, check_tables
from rcnn.data.checks.tables import RawTables, Tables
from rcnn.data.formats.files import annotation_file, find_splits, image_folders, read_json
from rcnn.data.messages import Warnings, few

NAME = "COCO"
KEYPOINTS = "annotations/person_keypoints_{split}.json"  # COCO's other file, of persons alone
PATTERNS = (
    "annotations/instances_{split}.json",  # COCO
    KEYPOINTS,
    "annotations/lvis_v1_{split}.json",
    "lvis_v1_{split}.json",
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/annotations.json",
    "{split}.json",
)
KNOWN_NAMES = ("instances_", "person_keypoints_", "lvis_v1_", "_annotations.coco")  # content need not be read
TABLES = ("images", "annotations", "categories")


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits in `folder`; `annotations` is the pattern of their files, if it is not a usual one."""
    return find_splits(folder, _patterns(annotations), _holds_coco)


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has a COCO file of `split`."""
    file = annotation_file(folder, split, _patterns(annotations))
    return file is not None and _holds_coco(file)


def read(
    folder: Path, split: str, *, annotations: str = "", keypoints: bool = False, known: KnownImages | None = None
) -> Tables:
    """The checked tables of a split.

    Where both of COCO's files are there, `keypoints` reads person_keypoints_SPLIT.json. `known` images are not
    searched for again. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    file = annotation_file(folder, split, _patterns(annotations, keypoints))
    if file is None:
        raise FileNotFoundError(f"{folder} has no COCO annotation file of split {split!r}")
    data = read_json(file)
    tables: dict[str, list[dict[str, object]]] = {}
    for name in TABLES:
        table = data.get(name) if isinstance(data, dict) else None
        if isinstance(table, list):
            tables[name] = table
    if len(tables) < len(TABLES):
        missing = ", ".join(name for name in TABLES if name not in tables)
        holds = few(sorted(map(str, data))) or "nothing" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ValueError(
            f"{file} is not a COCO annotation file: it has no list {missing} (it holds {holds}); expected an object "
            "with images, annotations and categories, or a VIA export"
        )
    raw = RawTables(
        file=file,
        root=folder,
        folders=image_folders(file, folder, split),
        images=tables["images"],
        annotations=tables["annotations"],
        categories=tables["categories"],
    )
    return check_tables(raw, Warnings(file), known)


def _patterns(annotations: str, keypoints: bool = False) -> Sequence[str]:
    if annotations:
        return (annotations,)
    return (KEYPOINTS, *PATTERNS) if keypoints else PATTERNS


def _holds_coco(file: Path) -> bool:
    """Whether a file has the words of COCO's tables, without parsing it."""
    if file.name.startswith(KNOWN_NAMES):
        return True
    content = file.read_bytes()
    return all(f'"{word}"'.encode() in content for word in TABLES)
