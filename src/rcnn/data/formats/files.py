"""Where the annotation files of whole splits, and their images, can be in the folder of a data set.

A pattern is a path within the folder, with "{split}" for the name of the split.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rcnn.commands import as_typed

ALL = "all"  # name of the split of a data set that is not divided
SPLIT_NAME = re.compile(r"(train|val|valid|validation|test)(val|-dev)?(\d{4})?", re.IGNORECASE)  # e.g. val2017
# The patterns BY_ENDING fix only the end of a name. For them, names with these prefixes are not splits.
NO_SPLITS = (
    "instances_", "person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_", "lvis_", "_annotations.coco",
    "via_region_data",
)  # fmt: skip
BY_ENDING = ("annotations/{split}.json", "{split}.json")
FIFTYONE = "labels.json"  # its COCODetectionDataset has this file and the images in FIFTYONE_IMAGES
FIFTYONE_IMAGES = "data"
IMAGES = ("{split}", "images/{split}", "{split}/images", "images", ".")  # where the images of a split may be
# Splits of COCO with their images in the folder of another split: minival2014 and valminusminival2014 (Girshick),
# superminival2014 and train_minus_refer_valtest2014 (mask-faster-rcnn), val2017_100 (tensorpack), test-dev2017.
MINUS_REFER = "_minus_refer_valtest"
PRUNED = (MINUS_REFER, "superminival")  # in the names of splits with files that keep annotations of removed images
PART_OF = re.compile(
    r"(?:mini|supermini|valminusmini)(?P<val>val\d{4})|(?P<numbered>\w+?\d{4})_\d+|test-\w+?(?P<test>\d{4})"
    rf"|train{MINUS_REFER}(?P<train>\d{{4}})"
)


def is_hidden(file: Path) -> bool:
    """Whether the name of a file starts with a dot."""
    return file.name.startswith(".")


def visible(files: Iterable[Path]) -> list[Path]:
    """The files without hidden ones, sorted: macOS puts a hidden ._NAME beside each NAME on drives of other systems."""
    return sorted(file for file in files if not is_hidden(file))


def is_one_file(annotations: str) -> bool:
    """Whether `annotations` is one JSON file, not a pattern with "{split}"."""
    return annotations.endswith(".json") and "{split}" not in annotations


def require_one_per_split(folder: Path, annotations: str) -> None:
    """Raise ValueError if `annotations`, a path within `folder`, is one JSON file, not a pattern with "{split}"."""
    if is_one_file(annotations):
        raise ValueError(
            f"annotations {annotations!r} (--annotations) is one file; expected a file for each split, e.g. "
            "labels/{split}.json: write {split} in place of the split's name, name the split with split (--split), or "
            f"give the file itself as the data set ({as_typed('--data', str(folder / annotations))})"
        )


def annotation_file(folder: Path, split: str, patterns: Sequence[str]) -> Path | None:
    """The first existing file of a split; None if there is none. A single pattern may be one file for all splits."""
    own = (pattern for pattern in patterns if "{split}" in pattern or split == ALL or len(patterns) == 1)
    files = (folder / pattern.replace("{split}", split) for pattern in own)
    return next((file for file in files if os.path.lexists(file) and not file.is_dir()), None)


def split_of(file: Path, folder: Path, patterns: Sequence[str]) -> str:
    """The split in the name of a file within `folder`; "all" if the name matches none of `patterns`."""
    path = file.relative_to(folder).as_posix()
    for pattern in patterns:
        before, _, after = pattern.partition("{split}")
        if "{split}" not in pattern and path == pattern:
            return ALL
        named = re.fullmatch(re.escape(before) + "(?P<split>[^/]+)" + re.escape(after), path)
        if named and not (pattern in BY_ENDING and file.name.startswith(NO_SPLITS)):
            return named["split"]
    return ALL


def image_folders(file: Path, folder: Path, split: str, images: Path | None = None) -> tuple[Path, ...]:
    """Where the images of a split may be, in order.

    `images` if the user gives it; otherwise the folder of the annotation file, then the usual folders.
    """
    if images is not None:
        return (images,)
    names = [split, *([whole] if (whole := whole_split(split)) else [])]
    beside = [file.parent, *([file.parent / FIFTYONE_IMAGES] if file.name == FIFTYONE else [])]
    folders = [*beside, *(folder / pattern.replace("{split}", name) for pattern in IMAGES for name in names)]
    return tuple(dict.fromkeys(one for one in folders if one != folder / "annotations"))


def whole_split(split: str) -> str:
    """The COCO split that `split` is a part of, e.g. val2014 for minival2014; empty if `split` is not a part."""
    part = PART_OF.fullmatch(split)
    if part is None:
        return ""
    return part["val"] or part["numbered"] or (f"test{part['test']}" if part["test"] else f"train{part['train']}")


def find_splits(folder: Path, patterns: Sequence[str], holds: Callable[[Path], bool]) -> set[str]:
    """Names of the splits that have a file matching one of `patterns` for which `holds` returns True.

    A pattern without "{split}" is the file of a data set that is not divided: the split "all". Files that match only by
    the end of their name are skipped if they have the prefix of another pattern (NO_SPLITS). A file is of one split
    only: of that of the first pattern. A damaged file beside a good one of the same pattern is a split too; reading it
    raises the error.
    """
    names: set[str] = set()
    taken: set[Path] = set()
    fixed = [pattern for pattern in patterns if "{split}" not in pattern]
    for pattern in patterns:
        if "{split}" not in pattern:
            names |= {ALL} if (folder / pattern).is_file() and holds(folder / pattern) else set()
            continue
        before, _, after = pattern.partition("{split}")
        shape = re.compile(re.escape(before) + "(?P<split>[^/]+)" + re.escape(after.replace("{split}", "(?P=split)")))
        good: dict[Path, str] = {}
        damaged: dict[Path, str] = {}
        for path in sorted(folder.glob("*".join(map(glob.escape, pattern.split("{split}"))))):
            named = shape.fullmatch(path.relative_to(folder).as_posix())
            if named is None or path in taken or path.is_dir():
                continue
            if named["split"].startswith("."):  # hidden: see `visible`
                continue
            if pattern in BY_ENDING and (
                path.name.startswith(NO_SPLITS) or path.relative_to(folder).as_posix() in fixed
            ):
                continue
            if not path.is_file() or holds(path):  # a broken link or a pipe: reading it says so
                good[path] = named["split"]
            elif _is_damaged(path):
                damaged[path] = named["split"]
        found = good | damaged if good else {}
        names.update(found.values())
        taken.update(found)
    return names


def _is_damaged(file: Path) -> bool:
    """Whether a JSON file is empty, contains nothing, or is cut short; only its start and end are read."""
    with file.open("rb") as content:
        start = content.read(64).strip()
        content.seek(max(0, file.stat().st_size - 64))
        end = content.read().strip()
    return start in (b"", b"{}", b"[]", b"null") or end[-1:] not in (b"}", b"]")
