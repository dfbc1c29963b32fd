"""The errors for a folder without annotations in a known format: what it contains, and what is expected."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from rcnn.data.formats.signatures import HINTS, OWN_JSON, PATHS, STARTS, TOOLS
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import close_to, counted, few
from rcnn.text_files import OTHER_ENCODING, is_binary

YOLO_FOLDERS = {"images", "labels"}
NAMES = {"classes.txt", "obj.names", "data.yaml"}  # files with the names of YOLO's classes
ADD_NAMES = "No file has the names of the classes: add classes.txt, with a name per line in the order of their numbers."
YOLO_LINE = re.compile(r"\d+(?:[ \t]+[-+.\deE]+){4,}\s*$", re.MULTILINE)
LOOKED_AT = 20_000  # files; further files are not counted
MAX_JSON = 50_000_000  # bytes of a JSON file that is read to say what it contains
MAX_START = 4096  # characters at the start of a file, which are read
MASK_ENDINGS = ("_mask", "_masks", "_label", "_seg", "-mask", "_gt")  # of the names of masks
MASK_FOLDER = re.compile(r"mask|label|annot|segm|truth|^gt$", re.IGNORECASE)  # in the names of folders of masks


def not_recognised(folder: Path, annotations: str, formats: str) -> FileNotFoundError:
    """The error for a folder without annotations, or without those of the path or pattern that the user gave."""
    if annotations:
        return FileNotFoundError(
            f"{folder} has no {annotations}, the given annotation file; expected a path within that folder"
        )
    files = list(_files(folder))
    suffixes = Counter(Path(name).suffix.lower() or "(no suffix)" for name in files)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6)) or "no files"
    folders = sorted(
        entry.name for entry in os.scandir(folder) if os.path.isdir(entry) and not entry.name.startswith(".")
    )
    inside = f" in the folders {few(folders)}" if folders else ""
    more = " (and more)" if len(files) >= LOOKED_AT else ""
    return FileNotFoundError(
        f"{folder} has no annotations in a known format. It contains {kinds}{more}{inside}. {_advice(folder, files)} "
        f"The formats are {formats}: docs/data.md and docs/data/formats.md show their folders. For a COCO file at "
        "another place, give its path with annotations (--annotations)"
    )


def no_such_split(folder: Path, split: str, splits: Sequence[str], files: str) -> FileNotFoundError:
    """The error for a data set with `splits`, without `split`. `files`: where its format expects those of a split."""
    tried = f". Searched for {files.replace('{split}', split)}" if files else ""
    return FileNotFoundError(
        f"{folder} has no split {split!r}{close_to(split, splits)}; it has {', '.join(splits)}{tried}"
    )


def hint_for(file: Path) -> str:
    """What a file that is not an annotation file contains, and what to do; empty if not known."""
    suffix, start = file.suffix.lower(), ""
    for own, pattern, text in STARTS:
        if suffix == own and pattern.match(start := start or _start(file)):
            return text
    return HINTS.get(suffix, "")


def tool_of(content: object) -> str:
    """What the content of a JSON file is, if another tool wrote it, and what to do; empty if it is not known."""
    entry = content[0] if isinstance(content, list) and content else content
    if not isinstance(entry, dict):
        return ""
    for keys, tool, action in TOOLS:
        if keys <= entry.keys():
            return OWN_JSON.format(tool=tool, action=action)
    return ""


def _start(file: Path) -> str:
    """The first MAX_START characters of a text file; empty if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            return text.read(MAX_START)
    except OSError:
        return ""


def _files(folder: Path) -> Iterator[str]:
    """Paths within `folder`, up to LOOKED_AT, without hidden files."""
    left = LOOKED_AT
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)
                left -= 1
                if not left:
                    return


def _advice(folder: Path, files: Sequence[str]) -> str:
    """What the files are, and what to do about it."""
    for name in files:
        if PurePath(name).name.startswith(("instances_", "person_keypoints_")) and PurePath(name).suffix == ".json":
            return f"{name} is a COCO file: give that file, or the folder that contains annotations/ and the images."
    for name in files:
        for pattern, what in PATHS:
            if pattern.search(PurePath(name).as_posix()):
                return f"{name} is {what}."
    for name in files:
        path = folder / name
        if path.suffix.lower() == ".json" and path.suffix != ".json":
            one_image = '"shapes"' in _start(path)  # labelme's, which `annotations` refuses
            other = "" if one_image else ", or name it with annotations (--annotations)"
            return f"{name} is not searched for, because its suffix is not .json: rename it{other}."
        if path.suffix.lower() == ".json":
            return f"{name} is {_json_kind(path)}."
    for name in files:
        if hint := hint_for(folder / name):
            return f"{name} is {hint}."
        suffix = PurePath(name).suffix
        if suffix.lower() == ".xml" and suffix != ".xml":
            return f"{name} is not searched for, because its suffix is not .xml: rename it."
    if wrong := _wrong_case(files):
        return f"YOLO's folders must be named images and labels, in lower case: rename {few(wrong)}."
    if any(PurePath(name).suffix.lower() == ".txt" and "labels" in PurePath(name).parts for name in files):
        return f"The files in labels/ look like YOLO's. {ADD_NAMES}"
    images = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if label := _label_of_an_image(folder, files, images):
        names = "" if {PurePath(name).name for name in files} & NAMES else f" {ADD_NAMES}"
        if PurePath(label[0]).parent != PurePath(label[1]).parent:
            names = f" Put the images into images/ and their label files into labels/ beside it.{names}"
        return f"{label[0]} looks like the label file of {label[1]} in YOLO's format.{names}"
    if mask := _mask_of_an_image(images):
        return (
            f"{mask[0]} looks like the mask of {mask[1]}. Put the images into images/ and their masks, with the same "
            "names (or NAME_mask.png), into masks/ beside it, and give the folder that contains both."
        )
    if any("masks" in (folder.resolve().name, *PurePath(name).parts) for name in images):
        return (
            "If these are masks, put the images that they belong to into images/ beside masks/, and give the folder "
            "that contains both."
        )
    if images:
        return (
            "There are images, but no annotations: outline the objects with a labelling tool and export them as COCO."
        )
    return "Give the folder that contains the images and their annotations."


def _label_of_an_image(folder: Path, files: Sequence[str], images: Sequence[str]) -> tuple[str, str] | None:
    """A text file that starts with a line of YOLO's, and the image with its name, among the paths; None if not any."""
    named = {PurePath(name).stem: name for name in reversed(images)}
    for name in files:
        path = PurePath(name)
        if path.suffix.lower() == ".txt" and path.stem in named and YOLO_LINE.match(_start(folder / name).lstrip()):
            return name, named[path.stem]
    return None


def _wrong_case(files: Sequence[str]) -> list[str]:
    """The folders of YOLO's images and labels with upper-case letters in their names; none without label files."""
    parents = [PurePath(name).parent.parts for name in files]
    texts = [parts for name, parts in zip(files, parents, strict=True) if PurePath(name).suffix.lower() == ".txt"]
    if not any(part.lower() == "labels" for parts in texts for part in parts):
        return []
    return sorted({part for parts in parents for part in parts if part.lower() in YOLO_FOLDERS} - YOLO_FOLDERS)


def _mask_of_an_image(images: Sequence[str]) -> tuple[str, str] | None:
    """A mask and its image, by their names and folders, among the paths of images; None if there is none."""
    masks: list[str] = []
    others: dict[str, str] = {}  # stem -> path
    for name in images:
        path = PurePath(name)
        if path.stem.endswith(MASK_ENDINGS) or MASK_FOLDER.search(path.parent.name):
            masks.append(name)
        else:
            others.setdefault(path.stem, name)
    for name in masks:
        stem = PurePath(name).stem
        for ending in ("", *MASK_ENDINGS):
            if stem.endswith(ending) and (image := others.get(stem.removesuffix(ending))):
                return name, image
    return None


def _json_kind(path: Path) -> str:
    """What a JSON file contains, for a message; only small files are read."""
    try:
        if path.stat().st_size > MAX_JSON:
            return "a JSON file of another kind"
        text = path.read_bytes()
    except OSError as error:  # also a link to a file that does not exist
        return f"a file that cannot be read ({error.strerror})"
    if not text:
        return "empty (0 bytes): export it again"
    try:
        content = json.loads(text)
    except UnicodeDecodeError:
        return "not JSON: it is a binary file" if is_binary(text) else OTHER_ENCODING
    except (ValueError, RecursionError):
        return "not valid JSON: it may be cut short"
    if tool := tool_of(content):
        return tool
    if isinstance(content, dict):
        return f"a JSON object with {few(sorted(map(str, content))) or 'nothing in it'}"
    if isinstance(content, list):
        return f"a JSON list of {counted(len(content), 'entry')}"
    return f"JSON of another kind ({type(content).__name__})"
