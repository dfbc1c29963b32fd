"""The images of a split in YOLO's layouts, from folders and list files, and the label file of each."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.checks.images import may_skip
from rcnn.data.folders import walk
from rcnn.data.formats.yolo_layouts import FoundPath, Layout, resolved
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import SAVE_IMAGES, SKIPPED, Warnings, counted, few
from rcnn.text_files import lines_of

LABELS_OF = {"images": "labels", "JPEGImages": "labels"}  # folder of images -> folder of their labels beside it


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An image and its labels."""

    name: str  # path within the root
    path: Path
    labels: Path | None  # None if there is no file


def images_of(layout: Layout, split: str, warnings: Warnings) -> list[ImageSource]:
    """The images of a split, each once, in the order of its folders (sorted) and list files.

    `warnings` receives those that a list file names and that do not exist, or names more than once.

    Raises ValueError for an image or folder outside the data set, FileNotFoundError if there are no images.
    """
    folders = _Folders()
    for source in layout.sources[split]:
        if source.is_dir() and os.path.relpath(source, layout.root).startswith(".."):
            raise ValueError(
                f"{layout.file}: the folder {source} of split {split!r} is outside the data set {layout.root}; give "
                "the folder that holds images and labels"
            )
    found: dict[str, ImageSource] = {}
    for source in layout.sources[split]:
        paths = _in_folder(source, warnings) if source.is_dir() else _listed(source, layout.root, warnings)
        for path in paths:
            name = _name(path, layout.root)
            if name.startswith(".."):
                raise ValueError(
                    f"{layout.file}: the image {path} of split {split!r} is outside the data set {layout.root}; give "
                    "the folder that holds images and labels"
                )
            found.setdefault(name, ImageSource(name=name, path=path, labels=_labels(path, layout.root, folders)))
    if not found:
        raise FileNotFoundError(
            f"{layout.file}: split {split!r} has no images in {few([str(one) for one in layout.sources[split]])}: "
            "copy them there, or export the data set again with its images"
        )
    return list(found.values())


def label_names(folder: str) -> dict[str, str]:
    """Stem -> file name of the text files in a folder; .txt is preferred to .TXT."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # .txt replaces .TXT
    except OSError:
        return {}
    return {stem: name for name in names for stem, suffix in [os.path.splitext(name)] if suffix.lower() == ".txt"}


def labels_folder(images: Path, root: Path) -> Path | None:
    """The folder of the labels of a folder of images; None if its path does not name one."""
    parts = Path(os.path.relpath(images, root)).parts
    for place in reversed(range(len(parts))):
        if parts[place] in LABELS_OF:
            return root.joinpath(*parts[:place], LABELS_OF[parts[place]], *parts[place + 1 :])
    return None


def images_folders(labels: Path, root: Path) -> list[Path]:
    """The folders of images that `labels_folder` gives the folder `labels`; they may not exist."""
    parts = Path(os.path.relpath(labels, root)).parts
    places = [place for place, part in enumerate(parts) if part in LABELS_OF.values()]
    named = [root.joinpath(*parts[: places[-1]], name, *parts[places[-1] + 1 :]) for name in LABELS_OF if places]
    return [images for images in named if labels_folder(images, root) == labels]


def expected_labels(image: Path, root: Path) -> Path:
    """The label file that an image should have: in labels/ instead of images/, else beside it."""
    folder = labels_folder(image.parent, root) or image.parent
    return folder / f"{image.stem}.txt"


class _Folders:
    """The label files in folders by their stems, with a suffix .txt in any case; each folder is listed once."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, str]] = {}

    def label(self, folder: str, stem: str) -> str | None:
        if folder not in self._labels:
            self._labels[folder] = label_names(folder)
        return self._labels[folder].get(stem)


def _name(path: Path, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _in_folder(source: Path, warnings: Warnings) -> Iterator[Path]:
    """The images of a folder and its subfolders, sorted."""
    for place, names in walk(source, warnings):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield place / name


def _listed(source: Path, root: Path, warnings: Warnings) -> list[Path]:
    """The images of a list file, each once; missing ones, and those with several lines, are added to `warnings`.

    Raises FileNotFoundError if half of the listed images or more are missing.
    """
    missing: list[str] = []
    repeated: list[str] = []
    other_paths: list[str] = []
    found: dict[str, FoundPath] = {}  # by the path without links to folders
    folders: dict[Path, str] = {}  # the same, without links
    lines = lines_of(source)
    for text in lines:
        place = resolved(text, (source.parent, root))
        if place is None or not place.path.is_file():
            missing.append(text)
            continue
        folder = place.path.parent
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        first = found.setdefault(os.path.join(folders[folder], place.path.name), place)
        if first is not place:
            differ = _written(first.text) != _written(text) and (first.shortened or place.shortened)
            (other_paths if differ else repeated).append(_name(first.path, root))
    if missing and not may_skip(len(missing), len(lines)):
        of_cvat = all(line.startswith("data/") for line in lines)
        raise FileNotFoundError(
            f"{source}: {counted(len(missing), 'image')} that it lists {'is' if len(missing) == 1 else 'are'} not in "
            f"{root} ({few(missing)}); copy them there, or remove these lines{SAVE_IMAGES if of_cvat else ''}"
        )
    warnings.add(f"no file in {root}", SKIPPED, missing, "image", kind="missing-image")
    what = f"more than one line in {source.name}"
    warnings.add(what, "used once", list(dict.fromkeys(repeated)), "image", kind="shared-image-file")
    warnings.add(
        f"paths in {source.name} that differ in folders which do not exist here",
        "used once; copy the images into the folders that the list names, or remove the lines of missing images",
        list(dict.fromkeys(other_paths)),
        "image",
        kind="shared-image-file",
    )
    return [place.path for place in found.values()]


def _written(text: str) -> str:
    """A path of a list file without differences that mean nothing: ./, doubled and reversed slashes."""
    return posixpath.normpath(text.strip().replace("\\", "/"))


def _labels(image: Path, root: Path, folders: _Folders) -> Path | None:
    """The label file of an image: in labels/ instead of images/ (the last folder of that name), else beside it."""
    folder = labels_folder(image.parent, root)
    if folder is not None and (name := folders.label(str(folder), image.stem)):
        return folder / name
    name = folders.label(str(image.parent), image.stem)
    return image.parent / name if name else None
