"""Images of an annotation file: finds their files, even if names are written differently, and their sizes."""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rcnn.data.checks.missing import missing_images
from rcnn.data.checks.numbers import MAX_COORDINATE, as_number
from rcnn.data.checks.tables import Id, Image, RawEntry, RawTables
from rcnn.data.images import ImageError, image_size
from rcnn.data.messages import SKIPPED, DataError, Warnings, brief, counted, excerpt

MAX_NAME_BYTES = 255  # of the name of a file or folder in most file systems
MAX_PATH_BYTES = 4096  # of a path: Linux' PATH_MAX
MAX_FOLDERS = 40  # folders at the end of a path that are searched for, if the path is not in the data set
BY_URL = "that is a URL"
BY_FOLDER = ("in another folder than the others", "with leading folders that the data set does not have")
URL_FIELDS = ("coco_url", "flickr_url", "url")  # fields that name the file of an entry without file_name (LVIS v1)
SKIPPED_IMAGES = {  # kinds of faults that cost an image: what the line says
    "missing-image": "no file",
    "image-outside": "a file outside the data set",
    "bad-file-name": "a file_name that is missing or is not the name of a file",
    "unreadable-image": "no size, and a file that cannot be read",
}


def check_images(raw: RawTables, ids: Sequence[Id], warnings: Warnings) -> tuple[Path, list[Image]]:
    """The images with their files and sizes, and the folder that file names are relative to.

    Raises MissingImagesError for missing images; DataError for names that are not text or are outside the data set, and
    for files of unknown size that cannot be read.
    """
    names = _written_names(raw, ids, warnings)
    folder, files = find_images(names, ids, raw, warnings)
    sizes = _sizes(raw.images, ids, [folder / file for file in files], warnings)
    if len(set(files)) < len(files):
        uses = Counter(files)
        shared = [one for one, file in zip(ids, files, strict=True) if uses[file] > 1]
        warnings.add("a file that another image has too", "all are used", shared, "image", kind="shared-image-file")
    return folder, [
        {"id": one, "file_name": file, "height": height, "width": width}
        for one, file, (height, width) in zip(ids, files, sizes, strict=True)
    ]


def have_sizes(entries: Sequence[RawEntry]) -> bool:
    """Whether all images have a height and a width."""
    return all(_side(entry.get("height")) and _side(entry.get("width")) for entry in entries)


def images_without_files(raw: RawTables, ids: Sequence[Id], warnings: Warnings) -> list[Image]:
    """The images with the names and sizes that their entries state, none of which is a file; a note says so."""
    names = _written_names(raw, ids, warnings)
    sizes = _sizes(raw.images, ids, [Path(name) for name in names], warnings)
    warnings.note(
        f"none of its {counted(len(names), 'image')} is there: scored with the sizes in this file, without pictures. "
        "For pictures, name the folder of the images with images (--images)"
    )
    return [
        {"id": one, "file_name": name, "height": height, "width": width}
        for one, name, (height, width) in zip(ids, names, sizes, strict=True)
    ]


def written_name(entry: RawEntry) -> Any:
    """The file name of an image, or its URL if it has no file name, as LVIS' images; None if it has neither."""
    name = entry.get("file_name")
    if name is None or name == "":
        return next((entry[field] for field in URL_FIELDS if entry.get(field)), None)
    return name


def _written_names(raw: RawTables, ids: Sequence[Id], warnings: Warnings) -> list[str]:
    names: list[str] = []
    wrong: list[int] = []
    by_url = 0
    for place, entry in enumerate(raw.images):
        name = written_name(entry)
        if isinstance(name, str) and _may_be_file(name):
            by_url += "://" in name
            names.append(name)
        else:
            wrong.append(place)
    if wrong:
        name = raw.images[wrong[0]].get("file_name")
        has = "has no file_name" if name is None else f"has the file_name {excerpt(name)}"
        has += f" of {len(name)} characters" if isinstance(name, str) and len(name) > MAX_NAME_BYTES else ""
        more = f" ({counted(len(wrong), 'image')} in all)" if len(wrong) > 1 else ""
        raise DataError(
            "bad-file-name",
            f"{raw.file}: entry {wrong[0]} (from 0) of images (id {brief(ids[wrong[0]])}) {has}{more}; expected the "
            "name of its image file",
            "images",
            wrong,
            "" if name is None else excerpt(name),
        )
    if by_url:
        warnings.note(f"{counted(by_url, 'image')} named by a URL: the last part of the URL is used as the file name")
    return names


def _may_be_file(name: str) -> bool:
    """Whether a file can have this name: file systems take no NUL, and limit the length."""
    path = _path_of(name).replace("\\", "/").encode("utf-8", "surrogatepass")
    return b"\0" not in path and len(path) <= MAX_PATH_BYTES and all(len(p) <= MAX_NAME_BYTES for p in path.split(b"/"))


def _path_of(name: str) -> str:
    """The path in a file name that may be a URL."""
    try:
        return unquote(urlsplit(name).path) if "://" in name else name
    except ValueError:  # not a URL, although it has "://"
        return name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


class _Files:
    """The files below the folders that images may be in; each folder is listed once."""

    def __init__(self, raw: RawTables) -> None:
        self.root = os.path.abspath(raw.root)
        self.folders = [os.path.abspath(folder) for folder in raw.folders if os.path.isdir(folder)]
        self._listed: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def inside(self, path: str) -> bool:
        return path.startswith(self.root.rstrip(os.sep) + os.sep)

    def names(self, folder: str) -> frozenset[str]:
        """The names of the files in a folder; none if the folder does not exist."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = frozenset(entry.name for entry in entries if not _is_folder(entry))
            except (OSError, ValueError):  # ValueError: a name that the file system cannot encode
                self._listed[folder] = frozenset()
        return self._listed[folder]

    def exact(self, folder: str, name: str) -> str | None:
        """The path of `name` in `folder`; None if the file does not exist or is outside the data set."""
        path = os.path.normpath(os.path.join(folder, name))
        return path if os.path.basename(path) in self.names(os.path.dirname(path)) and self.inside(path) else None

    def alike(self, folder: str, name: str) -> str | None:
        """The only file with the name `name`, apart from upper and lower case and the encoding of accents, if any."""
        path = os.path.normpath(os.path.join(folder, name))
        parent = os.path.dirname(path)
        if parent not in self._alike:
            keys: dict[str, list[str]] = {}
            for there in self.names(parent):
                keys.setdefault(_key(there), []).append(there)
            self._alike[parent] = keys
        found = self._alike[parent].get(_key(os.path.basename(path)), [])
        return os.path.join(parent, found[0]) if len(found) == 1 and self.inside(path) else None


def find_images(names: Sequence[str], ids: Sequence[Id], raw: RawTables, warnings: Warnings) -> tuple[Path, list[str]]:
    """The folder that contains the images, and the path of each image within it.

    It is the first of `raw.folders` that contains at least one of the files. Names that are not found there as written
    are searched for in all folders: with slashes for backslashes, without leading folders, with other upper and lower
    case or another encoding of accents.
    """
    files = _Files(raw)
    found: list[str | None] = [None] * len(names)
    base = None
    for folder in files.folders:
        found = [files.exact(folder, name) for name in names]
        if any(found):
            base = folder
            break
    guesses: dict[str, list[int]] = {}  # how the name differs -> indices of the images
    for place in [place for place, path in enumerate(found) if path is None]:
        path, how = _guess(names[place], files)
        found[place] = path
        if path is not None:
            guesses.setdefault(how, []).append(place)
    _drop_ambiguous(found, guesses)
    paths = _require_found(found, names, ids, raw, files)
    for how, places in guesses.items():
        if how != BY_URL:
            kind = "image-folder" if how in BY_FOLDER else "file-name"
            warnings.add(
                f"a file_name {how}", "the file was found", [ids[place] for place in places], "image", kind=kind
            )
    base = base or os.path.commonpath([os.path.dirname(path) for path in paths])
    folder = raw.root / os.path.relpath(base, files.root)
    return folder, [os.path.relpath(path, base).replace(os.sep, "/") for path in paths]


def _guess(name: str, files: _Files) -> tuple[str | None, str]:
    """The file that a name most likely means, and how the name differs from it."""
    path = _path_of(name)
    slashed = path.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part]
    shorter = ["/".join(parts[start:]) for start in range(max(0, len(parts) - MAX_FOLDERS), len(parts))]
    for tail in shorter:
        for folder in files.folders:
            if found := files.exact(folder, tail):
                if "://" in name:
                    return found, BY_URL
                if tail == slashed:
                    return found, "with backslashes" if slashed != name else BY_FOLDER[0]
                return found, BY_FOLDER[1]
    for tail in shorter:
        for folder in files.folders:
            if found := files.alike(folder, tail):
                return found, "that differs from the file's name in upper and lower case or in the encoding of accents"
    return None, ""


def _drop_ambiguous(found: list[str | None], guesses: dict[str, list[int]]) -> None:
    """Drop guessed files that are also the file of another image."""
    uses = Counter(path for path in found if path is not None)
    for places in guesses.values():
        for place in places:
            path = found[place]
            if path is not None and uses[path] > 1:
                found[place] = None


def _require_found(
    found: Sequence[str | None], names: Sequence[str], ids: Sequence[Id], raw: RawTables, files: _Files
) -> list[str]:
    """The paths. Raises MissingImagesError or DataError if an image has none."""
    missing = [place for place, path in enumerate(found) if path is None]
    if outside := [place for place in missing if _is_outside(names[place], files)]:
        name = excerpt(names[outside[0]])
        by_option = ", or name its folder with images (--images)" if raw.takes_images else ""
        raise DataError(
            "image-outside",
            f"{raw.file}: image {brief(ids[outside[0]])} has the file_name {name}, which is outside the data set "
            f"{raw.root}, and no file in it has that name: copy the image there{by_option}",
            "images",
            outside,
            name,
        )
    if missing:
        used = set(found)
        unused = {name for one in files.folders for name in files.names(one) if f"{one}{os.sep}{name}" not in used}
        search = not may_skip(len(missing), len(names)) and not (raw.optional_files and not used - {None})
        raise missing_images(found, names, raw, sorted(unused), search=search)
    return [path for path in found if path is not None]


def _is_outside(name: str, files: _Files) -> bool:
    """Whether a file name leads out of the data set from each of the folders that images may be in."""
    paths = [os.path.normpath(os.path.join(folder, name)) for folder in files.folders]
    return ".." in name and not any(files.inside(path) for path in paths)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _sizes(
    entries: Sequence[RawEntry], ids: Sequence[Id], paths: Sequence[Path], warnings: Warnings
) -> list[tuple[int, int]]:
    """Height and width of each image, from its entry or else from its file.

    Raises DataError for files that are needed for this and cannot be read.
    """
    wrong: list[Id] = []
    text: list[Id] = []
    sizes: list[tuple[int, int]] = []
    unreadable: dict[int, str] = {}
    for place, (entry, one, path) in enumerate(zip(entries, ids, paths, strict=True)):
        height, width = entry.get("height"), entry.get("width")
        size = _side(height), _side(width)
        if size[0] and size[1]:
            text += [one] if isinstance(height, str) or isinstance(width, str) else []
            sizes.append(size)
            continue
        if any(side is not None and not _side(side) for side in (height, width)):
            wrong.append(one)
        try:
            sizes.append(image_size(path))
        except (ImageError, OSError) as error:
            unreadable[place] = str(error)
    if unreadable:
        raise unreadable_images(unreadable)
    warnings.add("a height or width that is text", "read as a number", text, "image", kind="text-number")
    warnings.add(
        "a height or width that is not a number of pixels", "read from the image file", wrong, "image", kind="bad-size"
    )
    return sizes


def may_skip(skipped: int, images: int) -> bool:
    """Whether a split is used although `skipped` of its `images` images cannot be: if these are fewer than half."""
    return 2 * skipped < images


def add_skipped(kind: str, ids: Sequence[object], example: str, warnings: Warnings) -> None:
    """Add the skipped images `ids`; `kind` is one of SKIPPED_IMAGES, `example` is about the first image, or empty."""
    what = SKIPPED_IMAGES[kind] + (f", e.g. {example}" if example else "")
    warnings.add(what, SKIPPED, ids, "image", kind=kind)


def readable_sizes(files: Mapping[str, Path], known: Sequence[Image], warnings: Warnings) -> dict[Id, tuple[int, int]]:
    """The height and width of image files by id, for formats without sizes; `known` images are not read again.

    Files that cannot be read are added to `warnings`. Raises DataError if they are half of the files or more.
    """
    sizes: dict[Id, tuple[int, int]] = {one["id"]: (one["height"], one["width"]) for one in known}
    unreadable: dict[str, str] = {}
    for name, file in files.items():
        if name not in sizes:
            try:
                sizes[name] = image_size(file)
            except (ImageError, OSError) as error:
                unreadable[name] = str(error)
    if unreadable:
        error = unreadable_images(dict(enumerate(unreadable.values())))
        if not may_skip(len(unreadable), len(files)):
            raise error
        add_skipped(error.kind, list(unreadable), error.example, warnings)
    return sizes


def unreadable_images(reasons: Mapping[int, str]) -> DataError:
    """The error for images of unknown size whose files cannot be read: their indices, and what is wrong with each."""
    first = next(iter(reasons.values()))
    more = f" ({len(reasons) - 1} more cannot be read either)" if len(reasons) > 1 else ""
    return DataError("unreadable-image", f"{first}{more}", "images", list(reasons), first)


def _side(value: object) -> int:
    """A number of pixels; 0 if the value is not one."""
    if type(value) is int:
        return value if 0 < value <= MAX_COORDINATE else 0
    side = as_number(value)
    return int(side) if math.isfinite(side) and side.is_integer() and 0 < side <= MAX_COORDINATE else 0
