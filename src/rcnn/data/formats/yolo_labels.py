"""YOLO's label files that are not read: those of no image, and second ones of images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from rcnn.data.folders import images_in, walk
from rcnn.data.formats.files import SPLIT_NAME
from rcnn.data.formats.unknown import YOLO_LINE
from rcnn.data.formats.yolo_images import ImageSource, images_folders, label_names, labels_folder
from rcnn.data.formats.yolo_layouts import NAMES_FILES, Layout

LABELIMG_NAMES = "classes.txt"  # LabelImg writes it into every folder of labels
MAX_START = 4096  # bytes at the start of a label file, which are read to see whether it has YOLO's lines
PROBED = 10  # label files that are opened in search of a line
Folders = tuple[Path, Path]  # of label files that are not read, and of those that are


def second_labels(layout: Layout, sources: Sequence[ImageSource]) -> dict[Folders, list[ImageSource]]:
    """The images with a label file that is not read beside the one that is, by the folders of (the other, the used).

    The other one is beside the image, or anywhere in labels/ where no folder of images/ corresponds to its folder.
    """
    found: defaultdict[Folders, list[ImageSource]] = defaultdict(list)
    of_folder: defaultdict[Path, list[ImageSource]] = defaultdict(list)  # by the folder of the images
    for source in sources:
        if source.labels is not None:
            of_folder[source.path.parent].append(source)
    trees: dict[Path, dict[str, list[Path]]] = {}  # labels/ -> stem -> folders with such a label file
    for folder, own in of_folder.items():
        tops = _tops(folder, layout.root)
        if tops is not None and tops[1] not in trees:
            trees[tops[1]] = _unmatched(*tops)
        others = {} if tops is None else trees[tops[1]]
        beside = label_names(str(folder))
        for source in own:
            stem, used = source.path.stem, source.labels.parent if source.labels else folder
            for other in (*others.get(stem, ()), *([folder] if stem in beside else ())):
                if other != used:
                    found[other, used].append(source)
    return dict(found)


def misplaced_labels(layout: Layout, sources: Sequence[ImageSource]) -> list[Path]:
    """The folders with label files of the names of images that have none, e.g. labels/ for images/train/.

    They are in labels/, or else anywhere in the data set, e.g. annotations/. Folders that correspond to a folder of
    images are left out: their files belong to these.
    """
    of_folder: defaultdict[Path, set[str]] = defaultdict(set)
    for source in sources:
        if source.labels is None:
            of_folder[source.path.parent].add(source.path.stem)
    found: set[Path] = set()
    for folder, stems in of_folder.items():
        if (tops := _tops(folder, layout.root)) is not None:
            found |= {place for stem, places in _unmatched(*tops).items() if stem in stems for place in places}
    return sorted(found or _elsewhere(layout.root, set().union(*of_folder.values())))


def has_yolo_lines(folder: Path, stems: Collection[str]) -> bool:
    """Whether the first file with a line, of the label files `stems` in a folder, starts with one of YOLO's.

    True if there is no such file that can be read. Other text files there may be the names of the classes.
    """
    names = label_names(str(folder))
    for stem in sorted(names.keys() & set(stems))[:PROBED]:
        try:
            with (folder / names[stem]).open("rb") as opened:
                start = opened.read(MAX_START).decode(errors="replace").lstrip()
        except OSError:
            continue
        if start:
            return YOLO_LINE.match(start) is not None
    return True


def _elsewhere(root: Path, stems: set[str]) -> Iterator[Path]:
    """The folders in `root` with label files of the names `stems`, without those that belong to a folder of images."""
    for place, names in _folders_of_labels(root):
        if stems.isdisjoint(names):
            continue
        if not any(map(images_in, (place, *images_folders(place, root)))):
            yield place


def _tops(images: Path, root: Path) -> tuple[Path, Path] | None:
    """The folders named images and labels that a folder of images and that of its labels are, or are in."""
    labels = labels_folder(images, root)
    if labels is None:
        return None
    while images.name == labels.name:
        images, labels = images.parent, labels.parent
    return images, labels


def _unmatched(images: Path, labels: Path) -> dict[str, list[Path]]:
    """Stem of a label file -> the folders in `labels` that have it, and no images in their counterpart in `images`."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for place, names in _folders_of_labels(labels):
        if not images_in(images / place.relative_to(labels)):
            for stem in names:
                found[stem].append(place)
    return dict(found)


def absent_images(layout: Layout, other: Path, used: Path, sources: Sequence[ImageSource]) -> Path | None:
    """The folder for the images of another split, if `other` has the label files of a split without any images here.

    None if `other` has second label files of `sources`, the images with label files in `used`. The folders are those
    of `second_labels`. A split is known by its name, or by a path of data.yaml.
    """
    tops = _tops(sources[0].path.parent, layout.root)
    if tops is None or not (other.is_relative_to(tops[1]) and used.is_relative_to(tops[1])):
        return None
    images, labels = tops
    theirs, ours = other.relative_to(labels).parts, used.relative_to(labels).parts
    depth = next((i for i, (one, two) in enumerate(zip(theirs, ours, strict=False)) if one != two), None)
    if depth is None:  # one of them is in the other
        return None
    split = theirs[: depth + 1]
    missing = [text for texts in layout.missing.values() for text in texts]
    folder = images.joinpath(*split)
    listed = any(folder in places for places in layout.sources.values()) or any(
        PurePosixPath(text.replace("\\", "/")).parts[-len(split) :] == split for text in missing
    )
    if not (listed or SPLIT_NAME.fullmatch(split[-1])) or any(images_in(place) for place, _ in walk(folder)):
        return None
    return folder


def unused_labels(
    layout: Layout, split: str, sources: Sequence[ImageSource], second: Mapping[Folders, Sequence[ImageSource]]
) -> list[str]:
    """The label files of a split, within the root, that belong to none of its images (`sources`); sorted.

    Those of `second`, as `second_labels` returns it, belong to images. Only folders of labels beside folders of images
    are searched: a list file may leave images out.
    """
    used = {source.labels for source in sources}
    known = {(other, source.path.stem) for (other, _), own in second.items() for source in own}
    found: set[str] = set()
    for source in layout.sources[split]:
        folder = labels_folder(source, layout.root) if source.is_dir() else None
        if folder is None:
            continue
        for place, names in _folders_of_labels(folder):
            files = [place / name for stem, name in names.items() if (place, stem) not in known]
            found |= {os.path.relpath(file, layout.root).replace(os.sep, "/") for file in files if file not in used}
    return sorted(file for file in found.difference(NAMES_FILES) if os.path.basename(file) != LABELIMG_NAMES)


def _folders_of_labels(labels: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each folder in `labels`, and itself, with its label files: stem -> name."""
    for place, _ in walk(labels):
        yield place, label_names(str(place))
