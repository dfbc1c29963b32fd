"""Where YOLO's tools put images, labels and names of classes.

| tool | names | images of a split |
|---|---|---|
| Ultralytics, Roboflow | `names` in data.yaml | `train`, `val`, `test` in data.yaml: folder, list file, or several |
| darknet, CVAT | names file | list files train.txt, valid.txt, or those that obj.data names |
| Roboflow's darknet | _darknet.labels in each split | SPLIT |
| Label Studio, LabelImg | classes.txt | images/SPLIT, SPLIT/images, images/, or the folder itself |
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from rcnn.data.folders import subfolders
from rcnn.data.formats.files import ALL, visible
from rcnn.data.formats.yolo_names import config_names
from rcnn.data.formats.yolo_yaml import parsed_yaml
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import excerpt, few, printable
from rcnn.text_files import lines_of, read_text

KEYS = ("train", "val", "valid", "validation", "test")  # splits in data.yaml, obj.data and names of list files
ROBOFLOW_NAMES = "_darknet.labels"
NAMES_FILES = (
    "classes.txt",
    "obj.names",
    "data/obj.names",
    "labels/classes.txt",
    "predefined_classes.txt",
    ROBOFLOW_NAMES,
)
HAS_NAMES = re.compile(r"^[\"']?names[\"']?\s*:", re.MULTILINE)
HAS_COUNT = re.compile(r"^[\"']?nc[\"']?\s*:", re.MULTILINE)
HAS_SPLIT = re.compile(r"^[\"']?(train|val)[\"']?\s*:", re.MULTILINE)
MAX_FOLDERS = 40  # folders at the end of a path that does not exist, which are searched for
MAX_YAML = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images of each split are, and the names of the classes."""

    file: Path  # the file with the names of the classes
    root: Path
    names: list[str]
    sources: dict[str, list[Path]]  # split -> folders of images, and list files
    unnamed: tuple[int, ...] = ()  # numbers of the classes that a mapping of names does not have
    numbered: bool = False  # data.yaml has the number of the classes, but no names
    count: int | None = None  # `nc` of data.yaml
    keypoints: int = 0  # numbers of an object's keypoints in a line
    missing: dict[str, list[str]] = field(default_factory=dict)  # split -> paths of data.yaml that do not exist
    moved: dict[str, list[str]] = field(default_factory=dict)  # split -> notes about paths that lead elsewhere
    repeated: tuple[str, ...] = ()  # keys that data.yaml has twice, or that `names` has; the last one is used
    unused: dict[str, list[str]] = field(default_factory=dict)  # split or "path" -> its values that are not paths
    absent_path: str = ""  # `path` of data.yaml if there is no such folder, and the file is not in a folder of its name


def layout_splits(folder: Path, annotations: str = "") -> set[str]:
    """The splits of a folder; none if it has no YOLO layout. A damaged data.yaml has all splits."""
    try:
        layout = layout_of(folder, annotations)
        return layout.sources.keys() | (layout.missing.keys() & {"train"})  # a training split is never optional
    except FileNotFoundError:
        return set()
    except (ValueError, OSError):
        return {ALL, *KEYS}  # reading any of them raises the error


def unusable_split(folder: Path, split: str, annotations: str = "") -> str:
    """What is wrong with the entry of `split` in data.yaml, if it is no path; "" if there is no such entry."""
    with suppress(ValueError, OSError):
        layout = layout_of(folder, annotations)
        if split in layout.unused and split not in layout.sources:
            return (
                f"{layout.file}: {split} has {not_paths(layout.unused[split])}; correct it, relative to {layout.root}"
            )
    return ""


def layout_of(folder: Path, annotations: str = "") -> Layout:
    """The layout of a folder, from data.yaml or the YAML file `annotations` in the folder, else from its subfolders.

    Raises FileNotFoundError if the folder has none, ValueError for a file that cannot be read.
    """
    config = _config_file(folder, annotations, HAS_NAMES)
    names_file = _names_file(folder) if config is None and not annotations else None
    if names_file is None:
        config = config or _config_file(folder, annotations, HAS_COUNT)
    if config is not None:
        return _of_config(config, folder)
    if annotations:
        raise FileNotFoundError(f"{folder / annotations} is not a YOLO data file with names and train or val")
    damaged = folder / "data.yaml"
    if names_file is None and damaged.is_file() and _has_labels(folder):
        return _of_config(damaged, folder)
    if names_file is None or not (sources := _listed(folder) or _in_folders(folder)):
        raise FileNotFoundError(f"{folder} has no data.yaml, and no names file (classes.txt) with images and labels")
    return Layout(file=names_file, root=folder, names=lines_of(names_file), sources=sources)


@dataclass(frozen=True)
class FoundPath:
    """The file or folder of the data set for a path in a data file."""

    text: str  # the path
    path: Path
    shortened: bool  # whether leading folders that do not exist here, or the root of an absolute path, were dropped


def _names_file(folder: Path) -> Path | None:
    """The file that has only the names of the classes; None if there is none."""
    found = next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
    return found or next(iter(_files(folder, "*.names")), None) or _names_of_splits(folder)


def _config_file(folder: Path, annotations: str, key: re.Pattern[str]) -> Path | None:
    """data.yaml, or another YAML file in the folder that has splits and `key`; only `annotations`, if it is given."""
    found = _files(folder, "*.yaml", "*.yml")
    found = sorted(found, key=lambda file: (file.stem != "data", file.name))
    if annotations:
        found = [folder / annotations] if annotations.lower().endswith((".yaml", ".yml")) else []
    for file in found:
        if file.is_file() and file.stat().st_size <= MAX_YAML:
            try:
                text = read_text(file)
            except ValueError:
                continue  # layout_of raises the error for data.yaml if there is no other file
            if key.search(text) and HAS_SPLIT.search(text):
                return file
    return None


def _files(folder: Path, *patterns: str) -> list[Path]:
    """The files in a folder that match one of `patterns`, sorted, without hidden ones and folders."""
    return visible(file for pattern in patterns for file in folder.glob(pattern) if not file.is_dir())


def _of_config(file: Path, folder: Path) -> Layout:
    """The layout of a data.yaml. Paths are searched for relative to its `path`, then within the folder."""
    config, repeated, problem = parsed_yaml(file)
    if problem:
        raise ValueError(f"{file} is not YAML ({problem})")
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a YOLO data file: expected names, train and val, got {excerpt(config)}")
    base = folder / str(config["path"]) if isinstance(config.get("path"), str) else folder
    root = base if os.path.isabs(str(config.get("path"))) and _exists(base) else folder
    found = {key: _found(config.get(key), (base, root)) for key in KEYS}
    found = {key: places for key, places in found.items() if places}
    if not found:
        given = few([f"{key}: {excerpt(config[key])}" for key in KEYS if config.get(key)]) or "none"
        raise ValueError(f"{file}: no split exists in {root} ({given}); correct the paths, relative to that folder")
    missing = {key: [text for text in _texts(config.get(key)) if resolved(text, (base, root)) is None] for key in KEYS}
    _require_different(found, file)
    count = config.get("nc")
    moved = {
        key: [f"{printable(one.text)} does not exist; {one.path} is used" for one in places if one.shortened]
        for key, places in found.items()
    }
    if os.path.realpath(root) != os.path.realpath(folder):  # perhaps a copy of the data set that path names
        for key in found:
            moved[key] += [
                f"{excerpt(text)} of {root} is used, which path names, not that of {folder}"
                for text in _texts(config.get(key))
                if "\0" not in text
                and _exists(folder / text)
                and os.path.realpath(folder / text) != os.path.realpath(root / text)
            ]
    named = config_names(config, file)
    return Layout(
        file=file,
        root=root,
        names=named.names,
        unnamed=named.unnamed,
        numbered=named.numbered,
        sources={key: list(dict.fromkeys(one.path for one in places)) for key, places in found.items()},
        count=count if type(count) is int else None,
        keypoints=_keypoint_numbers(config.get("kpt_shape")),
        missing={key: texts for key, texts in missing.items() if texts},
        moved=moved,
        repeated=tuple(dict.fromkeys((*repeated, *named.repeated))),
        unused=_unused(config),
        absent_path=_absent_path(config.get("path"), folder),
    )


def _absent_path(path: object, folder: Path) -> str:
    """`path` of a data.yaml in `folder`, if it is not there. ../datasets/coco8 means a folder that is called coco8."""
    if not isinstance(path, str) or "\0" in path or _exists(folder / path):
        return ""
    return "" if path.replace("\\", "/").rstrip("/").rpartition("/")[2] == folder.absolute().name else path


def _keypoint_numbers(shape: object) -> int:
    """Count of numbers of an object's keypoints in a line, from `kpt_shape`: [keypoints, numbers per keypoint]."""
    if not isinstance(shape, list) or len(shape) != 2:
        return 0
    points, numbers = shape
    plausible = type(points) is int and type(numbers) is int and 0 < points < 1000 and 0 < numbers < 1000
    return points * numbers if plausible else 0


def _found(paths: object, bases: Sequence[Path]) -> list[FoundPath]:
    """The existing files or folders for the paths of a split: a path, or a list of paths."""
    return [place for text in _texts(paths) if (place := resolved(text, bases)) is not None]


def _texts(paths: object) -> list[str]:
    """The paths of a split as they are written, each once; none for other values."""
    texts = [one for one in (paths if isinstance(paths, list) else [paths]) if isinstance(one, str) and one]
    return list(dict.fromkeys(texts))


def _unused(config: Mapping[Any, Any]) -> dict[str, list[str]]:
    """The values of `path` and of the splits that are not paths: `path: 5`, `train: [images/train, 5]`."""
    found = dict[str, list[str]]()
    for key in ("path", *KEYS):
        value = config.get(key)
        values = value if isinstance(value, list) and key != "path" else [] if value in (None, "") else [value]
        if wrong := [_as_yaml(one) for one in values if not (isinstance(one, str) and one)]:
            found[key] = wrong
    return found


def not_paths(values: Sequence[str]) -> str:
    """What is wrong with a key of data.yaml with `values` of `Layout.unused`: "the value 5, which is not a path"."""
    one = len(values) == 1
    return f"the {'value' if one else 'values'} {few(values)}, which {'is not a path' if one else 'are not paths'}"


def _as_yaml(value: object) -> str:
    """A value of data.yaml in a message, as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return excerpt(value)


def _require_different(found: Mapping[str, Sequence[FoundPath]], file: Path) -> None:
    """Raise ValueError if different paths of two splits lead to the same files only because folders were dropped."""
    for (first, ones), (second, others) in combinations(found.items(), 2):
        of_path: defaultdict[Path, list[FoundPath]] = defaultdict(list)
        for other in dict.fromkeys(others):
            of_path[other.path].append(other)
        pairs = ((one, other) for one in dict.fromkeys(ones) for other in of_path[one.path])
        for one, other in pairs:
            if one.text != other.text and (one.shortened or other.shortened):
                raise ValueError(
                    f"{file}: {first} ({excerpt(one.text)}) and {second} ({excerpt(other.text)}) do not both exist, "
                    f"and {one.path} cannot be both; correct the paths (relative to {file.parent}) or remove one"
                )


def _names_of_splits(folder: Path) -> Path | None:
    """The names file that Roboflow writes into the folder of each split; None if there is none.

    Raises ValueError if they differ.
    """
    first, *others = _files(folder, f"*/{ROBOFLOW_NAMES}") or [None]
    for other in others:
        if first is not None and other is not None and lines_of(other) != lines_of(first):
            raise ValueError(f"{first} and {other} differ: the class numbers of all splits must have the same names")
    return first


def _has_labels(folder: Path) -> bool:
    """Whether a folder, or a folder in it, contains a folder named labels."""
    return (folder / "labels").is_dir() or any((one / "labels").is_dir() for one in subfolders(folder))


def _listed(folder: Path) -> dict[str, list[Path]]:
    """darknet's list files: those that obj.data names, else train.txt, valid.txt, ... in the folder."""
    found: dict[str, list[Path]] = {}
    for data in _files(folder, "*.data", "data/*.data"):
        for line in lines_of(data):
            key, _, value = (part.strip() for part in line.partition("="))
            place = resolved(value, (folder,)) if key in KEYS and value else None
            if place is not None and place.path.is_file():
                found[key] = [place.path]
    return found or {
        key: [file]
        for key in KEYS
        for file in (folder / f"{key}.txt", folder / "data" / f"{key}.txt")
        if file.is_file()
    }


def _in_folders(folder: Path) -> dict[str, list[Path]]:
    """Folders of images with labels: images/SPLIT, SPLIT/images, SPLIT, else images/ or the folder itself as "all"."""
    found: dict[str, list[Path]] = {}
    for one in subfolders(folder / "images"):
        if (folder / "labels" / one.name).is_dir():
            found[one.name] = [one]
    for one in subfolders(folder):
        if (one / "images").is_dir() and (one / "labels").is_dir():
            found[one.name] = [one / "images"]
        elif one.name not in ("images", "labels") and _labelled_beside(one):
            found[one.name] = [one]
    if found:
        return found
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return {ALL: [folder / "images"]}
    return {ALL: [folder]} if _labelled_beside(folder) else {}


def _labelled_beside(folder: Path) -> bool:
    """Whether some image in a folder has a text file of the same name beside it."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    parts = [os.path.splitext(name) for name in names]
    labels = {stem for stem, suffix in parts if suffix.lower() == ".txt"}
    return any(stem in labels for stem, suffix in parts if suffix.lower() in IMAGE_SUFFIXES)


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # False for paths that cannot exist


def resolved(text: str, bases: Sequence[Path]) -> FoundPath | None:
    """The file or folder for a path in a data file; None if there is none.

    Roboflow writes ../train/images for train/images, and other tools the absolute paths of another machine, so leading
    folders are dropped until the rest exists.
    """
    path = text.strip().replace("\\", "/")
    if "\0" in path:
        return None
    direct = ((base / path, False) for base in bases)
    places = chain(direct, ((base / tail, shortened) for tail, shortened in _tails(path) for base in bases))
    return next((FoundPath(text, place, shortened) for place, shortened in places if _exists(place)), None)


def _tails(path: str) -> Iterator[tuple[str, bool]]:
    """A path without its first 0, 1, 2, ... folders, and whether folders other than .., or the root, were dropped."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    starts = [start for start, part in enumerate(parts) if part != ".."]
    for start in starts[-MAX_FOLDERS:]:
        yield "/".join(parts[start:]), start > starts[0] or os.path.isabs(path)
