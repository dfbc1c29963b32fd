"""Folders of images and masks, without an annotation file.

| layout | objects |
|---|---|
| images/a.jpg, masks/a.png or a_mask.png | ids in the mask: 0 is background, each other value an object (PennFudan) |
| a.jpg, masks/a.png or a_mask.png | the same, with the images beside masks/ instead of in images/ |
| images/a.jpg, masks/a/*.png | a file per object: every pixel that is not 0 |
| images/a.jpg, masks/a_1.png or a_CLASS_1.png | a file per object, for images without another mask |
| a/images/a.png, a/masks/*.png | a file per object (Data Science Bowl 2018) |

The class is the name of a folder between masks/ and the file, e.g. masks/leaf/a.png or masks/a/leaf/1.png; without such
a folder it is "object". A split is a folder above (train/images/) or one in both (images/train/ and masks/train/).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.images import readable_sizes
from rcnn.data.checks.tables import RawEntry, Tables
from rcnn.data.folders import images_in, subfolders, walk
from rcnn.data.formats.files import ALL, visible
from rcnn.data.formats.many_files import DEFAULT_CLASS, instances, named_tables, note_same_names, pixels_mask
from rcnn.data.formats.options import ReadOptions
from rcnn.data.images import IMAGE_SUFFIXES, ImageError, read_ids
from rcnn.data.messages import SKIPPED, Warnings, counted, few

NAME = "mask folders"
PAIRS = (("images", "masks"), ("PNGImages", "PedMasks"))
BESIDE = "masks"  # folder of masks with the images beside it, if there is no other pair
SPLIT_FILES = "images/{split}/ with masks/{split}/, {split}/images/ with {split}/masks/, {split}/ with {split}/masks/"
ENDINGS = ("", "_mask", "_masks", "_label")  # what may follow the name of the image in the name of a mask
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
NUMBERED = re.compile(r"(?:_(?P<category>.*[^\W\d_].*))?_\d+")  # what follows the image in a_1.png, a_CLASS_1.png
WHITE = (255, 65535, 0xFFFFFF)  # the only value of many masks that do not tell objects apart: 8 bits, 16 bits, RGB


@dataclass(frozen=True)
class _Mask:
    """A file of masks."""

    file: Path
    category: str
    whole: bool  # whether the file is one object; otherwise each id is an object


@dataclass(frozen=True)
class _Image:
    """An image and its masks."""

    file: Path
    masks: Sequence[_Mask]
    second: Sequence[_Mask] = ()  # of the same objects, in another place


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the folders that have images with masks, or "all"."""
    if annotations:
        return set()
    names = {one.name for one in subfolders(folder) if not _is_of_one_image(one)}
    names |= {one.name for images, _ in PAIRS for one in subfolders(folder / images)}
    return {name for name in (*names, ALL) if _has_split(folder, name)}


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has images and masks of `split`."""
    return not annotations and _has_split(folder, split)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is its path, that of an object its mask file and the id in it.

    Only `options.known` has an effect. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    warnings = Warnings(folder if split == ALL or not (folder / split).is_dir() else folder / split)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    without: list[str] = []
    used: set[Path] = set()
    values: dict[str, list[int]] = {}  # ids in each mask that may hold several objects
    named = {image.file.relative_to(folder).as_posix(): image for image in _images(folder, split)}
    files = {name: image.file for name, image in named.items() if image.masks}
    sizes = readable_sizes(files, options.known_images, warnings)
    for name, image in named.items():
        used.update(mask.file for mask in (*image.masks, *image.second))
        without += [] if image.masks else [name]
        if name not in sizes:
            continue
        if image.second:
            warnings.second_labels(image.second[0].file.parent, image.masks[0].file.parent, [name])
        size = sizes[name]
        images.append({"id": name, "file_name": name, "height": size[0], "width": size[1]})
        readable = False
        for mask in image.masks:
            path = mask.file.relative_to(folder).as_posix()
            ids = _ids(mask.file, path, size, warnings)
            if ids is None:
                continue
            readable = True
            found += [one | {"image_id": name} for one in _objects(ids, mask, path, warnings)]
            if not mask.whole:
                values[path] = np.unique(ids[ids != 0]).tolist()
        warnings.all_skipped([] if readable else [name])
    _note_unusual(without, _single_valued(values), images, warnings)
    for images_folder, masks in _pairs(folder, split):
        _note_unused(folder, images_folder, masks, used, warnings)
    raw = named_tables(file=warnings.file, root=folder, folders=(folder,), images=images, annotations=found)
    return check_tables(raw, warnings, options.known)


def _has_split(folder: Path, split: str) -> bool:
    return bool(_pairs(folder, split)) or any(map(_is_of_one_image, subfolders(_base(folder, split))))


def _base(folder: Path, split: str) -> Path:
    return folder if split == ALL else folder / split


def _pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """The folders of images and of masks of a split."""
    places = [(_base(folder, split) / images, _base(folder, split) / masks) for images, masks in PAIRS]
    if split != ALL:
        places += [(folder / images / split, folder / masks / split) for images, masks in PAIRS]
    if split != ALL and _is_of_one_image(folder / split):
        return []
    base = _base(folder, split)
    beside = (base, base / BESIDE)
    there = [(images, masks) for images, masks in (*places, beside) if masks.is_dir() and images_in(images)]
    has_own_folder = any((base / images).is_dir() for images, _ in PAIRS)  # then pictures beside it are others
    return [pair for pair in there if pair != beside or not has_own_folder]


def _is_of_one_image(folder: Path) -> bool:
    """Whether a folder has one image, with the name of the folder, and its masks, as in the Data Science Bowl."""
    return (folder / "masks").is_dir() and list(images_in(folder / "images")) == [folder.name]


def _images(folder: Path, split: str) -> Iterator[_Image]:
    """The images of a split, sorted in each folder."""
    for images, masks in _pairs(folder, split):
        names = images_in(images)
        index = _index(masks, names)
        numbered = _numbered(masks, names)
        for stem, name in names.items():
            found = next((index[stem + ending] for ending in ENDINGS if stem + ending in index), numbered.get(stem, []))
            yield _Image(images / name, *_chosen(found, masks, names))
    for one in subfolders(_base(folder, split)):
        if _is_of_one_image(one):
            (name,) = images_in(one / "images").values()
            yield _Image(one / "images" / name, _of_one_image(one / "masks"))


def _index(masks: Path, images: Mapping[str, str]) -> dict[str, list[_Mask]]:
    """Stem -> masks; the stem is that of the image, with or without one of ENDINGS."""
    found: defaultdict[str, list[_Mask]] = defaultdict(list)
    for file in _mask_files(masks):
        found[file.stem].append(_Mask(file, DEFAULT_CLASS, whole=False))
    for one in subfolders(masks):
        if one.name in images:
            found[one.name] += _of_one_image(one)
            continue
        for file in _mask_files(one):  # a folder of a class
            found[file.stem].append(_Mask(file, one.name, whole=False))
        for inner in subfolders(one):
            found[inner.name] += [_Mask(file, one.name, whole=True) for file in _mask_files(inner)]
    return dict(found)


def _chosen(found: Sequence[_Mask], masks: Path, images: Mapping[str, str]) -> tuple[list[_Mask], list[_Mask]]:
    """The masks of an image in `masks` to use, and those that show the same objects in another form.

    Masks in folders of classes are preferred to a folder of the image, and this to a file in `masks` itself. Within a
    class, a file per object is preferred.
    """
    places: tuple[list[_Mask], list[_Mask], list[_Mask]] = ([], [], [])
    for mask in found:
        first, *rest = mask.file.relative_to(masks).parts
        places[2 if not rest else int(first in images)].append(mask)
    best = next((one for one in places if one), places[-1])
    single = {mask.category for mask in best if mask.whole}
    used = [mask for mask in best if mask.whole or mask.category not in single]
    return used, [mask for mask in found if mask not in used]


def _numbered(masks: Path, images: Mapping[str, str]) -> dict[str, list[_Mask]]:
    """Stem a of an image -> the masks a_1.png and a_CLASS_1.png, if their names start with one image only."""
    found: defaultdict[str, list[_Mask]] = defaultdict(list)
    for file in _mask_files(masks):
        starts = [file.stem[:end] for end in range(1, len(file.stem)) if file.stem[end] == "_"]
        named = [
            (stem, rest) for stem in starts if stem in images and (rest := NUMBERED.fullmatch(file.stem[len(stem) :]))
        ]
        if len(named) == 1 and file.stem not in images:
            stem, rest = named[0]
            category = rest["category"] or DEFAULT_CLASS
            found[stem].append(_Mask(file, DEFAULT_CLASS if f"_{category}" in ENDINGS else category, whole=True))
    return dict(found)


def _of_one_image(folder: Path) -> list[_Mask]:
    """The masks of one image: a file per object, in the folder or in folders of classes."""
    own = [_Mask(file, DEFAULT_CLASS, whole=True) for file in _mask_files(folder)]
    return own + [_Mask(file, one.name, whole=True) for one in subfolders(folder) for file in _mask_files(one)]


def _mask_files(folder: Path) -> list[Path]:
    return [file for file in visible(folder.iterdir()) if file.suffix.lower() in MASK_SUFFIXES and file.is_file()]


def _ids(file: Path, name: str, size: tuple[int, int], warnings: Warnings) -> np.ndarray | None:
    """The ids (H, W) in a mask; None, with a warning, if it cannot be read or if `size`, that of the image, differs."""
    try:
        ids = read_ids(file)
    except ImageError:
        warnings.add("a mask that cannot be read as ids (grey, palette or RGB PNG)", SKIPPED, [name], kind="bad-mask")
        return None
    if ids.shape != size:
        warnings.add("a mask of another size than its image", SKIPPED, [name], kind="bad-mask")
        return None
    return ids


def _objects(ids: np.ndarray, mask: _Mask, name: str, warnings: Warnings) -> list[RawEntry]:
    """The objects in a mask, without their image."""
    if not mask.whole:
        return [
            {"id": f"{name}:{number}", "category": mask.category, "iscrowd": 0, "segmentation": rle}
            for number, _, rle in instances(ids)
        ]
    pixels = np.flatnonzero(ids)
    if not pixels.size:
        warnings.add("a mask without pixels", SKIPPED, [name], kind="empty-mask")
        return []
    rle = pixels_mask(pixels, (ids.shape[0], ids.shape[1]))
    return [{"id": name, "category": mask.category, "iscrowd": 0, "segmentation": rle}]


def _single_valued(values: Mapping[str, Sequence[int]]) -> list[str]:
    """The masks that may not tell objects apart: those of white pixels only, or all if none has a second value."""
    single = [path for path, ids in values.items() if len(ids) == 1]
    if all(len(ids) <= 1 for ids in values.values()):
        return single
    return [path for path in single if values[path][0] in WHITE]


def _note_unused(folder: Path, images: Path, masks: Path, used: Collection[Path], warnings: Warnings) -> None:
    """Report masks that belong to no image, and note images with the name of another one apart from the suffix."""
    names = (place / name for place, names in walk(masks, warnings) for name in names)
    files = (file for file in visible(names) if file.suffix.lower() in IMAGE_SUFFIXES)
    unused = [file.relative_to(folder).as_posix() for file in files if file not in used]
    what = f"no image of that name, or not in a format for masks ({', '.join(MASK_SUFFIXES)})"
    warnings.add(what, "not used", unused, "mask file", kind="missing-image")
    note_same_names(images, warnings)


def _note_unusual(
    without: Sequence[str], single: Sequence[str], images: Sequence[RawEntry], warnings: Warnings
) -> None:
    """Note images without masks, and masks that may not tell objects apart; refuse a split without any mask."""
    if without and not images:
        raise FileNotFoundError(
            f"{warnings.file} has {counted(len(without), 'image')} and no mask ({few(without)}); expected "
            f"masks/NAME.png, or masks/NAME/ with a file per object ({', '.join(MASK_SUFFIXES)})"
        )
    if without:
        warnings.note(
            f"{counted(len(without), 'image')} without a mask ({few(without)}): not used; a mask of zeros says that an "
            "image has no objects"
        )
    if single:
        warnings.note(
            f"{counted(len(single), 'mask')} with one value only ({few(single)}): each is read as one object; "
            "several objects in an image need values of their own"
        )
