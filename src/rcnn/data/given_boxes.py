"""Boxes given by the user, which a model scores or describes, and the files that contain them.

Boxes are float xyxy in absolute pixels of the original image, width = x2 - x1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rcnn.data.checks.images import URL_FIELDS
from rcnn.data.image_inputs import ImageSource
from rcnn.data.messages import close_to, counted, excerpt, few
from rcnn.data.records import ImageRecord
from rcnn.preprocess import Frame
from rcnn.text_files import as_given, missing_text, read_json

# (N, 4) xyxy
Boxes: TypeAlias = npt.NDArray[np.floating] | npt.NDArray[np.integer] | Tensor | Sequence[Sequence[float]]
# (N,) classes 0..K-1, or their names
Labels: TypeAlias = npt.NDArray[np.integer] | Tensor | Sequence[int] | Sequence[str]
FORMS = (
    'expected {"photo.jpg": [[x1, y1, x2, y2], ...]}, a COCO annotation or results file, or predictions.json of '
    "rcnn predict"
)


@dataclass(frozen=True, kw_only=True)
class GivenBoxes:
    """The boxes to score in one image, checked."""

    boxes: npt.NDArray[np.float32]  # (N, 4) xyxy, inside the image
    labels: npt.NDArray[np.int64] | None = None  # (N,) the classes to score; None: the most probable ones


class PredictionInput(NamedTuple):
    """One image, and the boxes to score if some are given."""

    image: object  # as the user gave it
    pixels: Tensor  # (3, H, W) uint8 RGB
    given: GivenBoxes | None = None  # boxes to score; None: detect

    def source(self, max_pixels: int) -> ImageSource:
        """The image for drawing. To save memory, files and bytes are not kept decoded, but decoded again."""
        if isinstance(self.image, str | Path | bytes | ImageRecord):
            return ImageSource(image=self.image, max_pixels=max_pixels)
        return ImageSource(image=self.pixels)


def check_given(boxes: object, labels: object, image: Tensor, classes: Sequence[str], where: str = "") -> GivenBoxes:
    """Check the boxes (N, 4) xyxy of an image (3, H, W) and, unless None, their labels (N,), 0..K-1 for K `classes`.

    Labels may also be names of `classes`. Raises ValueError for boxes that `checked_boxes` refuses, and for labels that
    are not one integer from 0 to K - 1, or one name, per box. The message starts with `where`.
    """
    try:
        rows = checked_boxes(boxes, (image.shape[1], image.shape[2]))
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
    if labels is None:
        return GivenBoxes(boxes=rows)
    expected = f"{where}labels={excerpt(labels)}; expected {len(rows)} integers, one for each box, or names of classes"
    try:
        values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths; a meta or sparse tensor
        raise ValueError(expected) from error
    if values.shape == (len(rows),) and len(rows) and all(isinstance(one, str) for one in values.tolist()):
        values = _labels_of(values.tolist(), classes, where)
    if values.shape != (len(rows),) or (len(rows) and values.dtype.kind not in "iu"):
        raise ValueError(expected)
    if len(rows) and not (values.min() >= 0 and values.max() < len(classes)):
        raise ValueError(f"{where}labels={excerpt(labels)}; expected classes from 0 to {len(classes) - 1}")
    return GivenBoxes(boxes=rows, labels=values.astype(np.int64))


def _labels_of(names: Sequence[str], classes: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """The labels (N,) of N names of classes. Raises ValueError for another name, or one that several classes have."""
    for name in names:
        if (count := list(classes).count(name)) != 1:
            known = f"{close_to(name, classes)}; the model has {few(classes)}"
            what = f"; the model has {count} classes of this name: give the numbers" if count else known
            raise ValueError(f"{where}labels has the class {excerpt(name)}{what}")
    return np.array([classes.index(name) for name in names], dtype=np.int64)


def one_per_image(values: Collection[object] | None, name: str) -> Iterator[object]:
    """The entries of `values`, one for each image; None for each if `values` is None.

    Raises ValueError for an entry that is None, and if there are fewer entries than images.
    """
    if values is None:
        yield from repeat(None)
    elif not isinstance(values, Collection):
        raise ValueError(f"{name}={excerpt(values)}; expected a list of {name}, one entry per image")
    else:
        for index, value in enumerate(values):
            if value is None:
                raise ValueError(f"{name}[{index}] is None; expected {name} for each image, or none at all")
            yield value
        raise ValueError(
            f"{name} has {counted(len(values), 'entry')}, fewer than there are images; expected one per image"
        )


def pad_given(given: Sequence[GivenBoxes], frames: Sequence[Frame]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Boxes (B, R, 4) in pixels of the network's images, `valid` (B, R), valid rows first, and labels (B, R).

    The labels are None if no image has labels. Raises ValueError if only some images have them.
    """
    if len({own.labels is None for own in given}) > 1:
        raise ValueError("only some images of the batch have labels; expected labels for each image, or none at all")
    most = max(1, *(len(own.boxes) for own in given))  # R
    boxes, valid = torch.zeros(len(given), most, 4), torch.zeros(len(given), most, dtype=torch.bool)
    labels = None if given[0].labels is None else torch.zeros(len(given), most, dtype=torch.int64)
    for index, (own, frame) in enumerate(zip(given, frames, strict=True)):
        count = len(own.boxes)
        boxes[index, :count] = torch.from_numpy(frame.from_original(own.boxes))
        valid[index, :count] = True
        if labels is not None and own.labels is not None:
            labels[index, :count] = torch.from_numpy(own.labels)
    return boxes, valid, labels


def checked_boxes(boxes: object, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) float32, clipped to an image of `size` (height, width).

    Raises ValueError for another shape, or a box that is not finite, empty, or outside the image.
    """
    try:
        values = np.asarray(boxes.detach().cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a meta or sparse tensor
        raise ValueError(f"boxes={excerpt(boxes)}; expected N rows of four numbers, x1, y1, x2, y2") from error
    if values.size == 0:
        return np.zeros((0, 4), np.float32)
    if values.ndim != 2 or values.shape[1] != 4:
        raise ValueError(f"boxes have shape {values.shape}; expected (N, 4): x1, y1, x2, y2 of each box")
    height, width = size
    clipped = values.clip(0, [width, height, width, height])
    sound = np.isfinite(values).all(1) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    if not sound.all():
        index = int(np.flatnonzero(~sound)[0])
        raise ValueError(
            f"box {index} is {values[index].tolist()}; expected x1 < x2 and y1 < y2 in pixels, at least partly inside "
            f"the image of {width} x {height} (width x height)"
        )
    return clipped.astype(np.float32)


def count_reaching_outside(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> int:
    """How many of `boxes` (N, 4) reach more than a pixel outside an image of `size` (height, width)."""
    height, width = size
    return sum(x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1 for x1, y1, x2, y2 in boxes)


@dataclass(kw_only=True)
class BoxFile:
    """The boxes of a file, by image."""

    path: Path
    by_name: dict[str, list[list[float]]] = field(default_factory=dict)  # name of an image -> its boxes
    by_id: dict[int, list[list[float]]] = field(default_factory=dict)  # COCO's id of an image -> its boxes
    used: set[str | int] = field(default_factory=set)  # names and ids that `of` found

    def of(self, image: str) -> list[list[float]]:
        """The boxes of an image, by the longest name in the file that its path ends with, or by its id.

        Names match by whole parts of the path, also without the suffix of the file; an id is the number that the name
        of the file ends with. Raises ValueError if the file has no entry for the image.
        """
        key = self._key(image)
        if key is None:
            raise ValueError(f"{self.path} has no boxes for image {image}; expected an entry with its name or id")
        self.used.add(key)
        return self.by_name[key] if isinstance(key, str) else self.by_id[key]

    def has(self, image: str) -> bool:
        """Whether the file has an entry for an image."""
        return self._key(image) is not None

    def require_one_each(self, images: Sequence[str]) -> None:
        """Raise ValueError if two images, by their paths, would get the boxes of the same entry."""
        paths: dict[str | int, dict[tuple[str, ...], str]] = {}  # entry -> parts of a path -> the path as given
        for image in images:
            if (key := self._key(image)) is not None:
                paths.setdefault(key, {}).setdefault(_parts(image), image)
        for key, matching in paths.items():
            if len(matching) > 1:
                raise ValueError(
                    f"{self.path}: the boxes of {key!r} fit {counted(len(matching), 'image')} "
                    f"({few([*matching.values()])}); expected one. Add folders to the names in the file, as in "
                    f"{next(iter(matching.values()))!r}, or predict on one of these images only"
                )

    def _key(self, image: str) -> str | int | None:
        """The name or id under which the file has the boxes of an image. ValueError if two names mean the image."""
        parts = _parts(image)
        stem = PurePosixPath(*parts).stem
        for start in range(len(parts)):
            for tail in (parts[start:], (*parts[start:-1], stem)):
                names = self._names.get(tail, [])
                if len(names) > 1:
                    raise ValueError(f"{self.path}: {few(names)} are names of one image; expected one entry for it")
                if names:
                    return names[0]
        number = re.search(r"(\d+)$", stem)
        return int(number[1]) if number is not None and int(number[1]) in self.by_id else None

    @cached_property
    def _names(self) -> dict[tuple[str, ...], list[str]]:
        """The names of `by_name`, by their parts."""
        names: dict[tuple[str, ...], list[str]] = {}
        for name in self.by_name:
            names.setdefault(_parts(name), []).append(name)
        return names

    def unused(self) -> list[str]:
        """Names and ids of the entries in the file that `of` has not returned."""
        return [str(key) for key in (*self.by_name, *self.by_id) if key not in self.used]


def read_boxes(path: Path) -> BoxFile:
    """The boxes of a JSON file: {"photo.jpg": [[x1, y1, x2, y2], ...]}, COCO annotations or results, predictions.json.

    Raises FileNotFoundError if the file does not exist, and ValueError, with the file and the entry, if an entry is
    wrong.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {FORMS}")
    if not path.is_file():
        raise FileNotFoundError(f"{as_given(path)} {missing_text(path)}; {FORMS}")
    boxes = BoxFile(path=path)
    try:
        _add_all(boxes, read_json(path, FORMS))
    except EntryError as error:
        raise ValueError(f"{path}: {error}; {FORMS}") from error
    return boxes


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path or URL with / or \\ as separators, without "."."""
    return PurePosixPath(path.replace("\\", "/")).parts


class EntryError(ValueError):
    """An entry of a file of boxes that cannot be read; the message says which entry, and what is wrong."""


def _add_all(boxes: BoxFile, data: object) -> None:
    """Add the boxes of a whole file. Raises EntryError."""
    if isinstance(data, list):
        for index, entry in enumerate(data):
            image, box = _values(entry, f"entry {index}", "image_id", "bbox")
            _add(boxes, image, _corners(box, f"the bbox of entry {index}"))
    elif not isinstance(data, dict):
        raise EntryError(f"the file contains {excerpt(data)}")
    elif isinstance(data.get("annotations"), list):
        _add_annotations(boxes, data)
    elif isinstance(data.get("images"), list):
        for index, entry in enumerate(data["images"]):
            file, found = _values(entry, f"images[{index}]", "file", "detections")
            if str(file) in boxes.by_name:
                raise EntryError(f"images[{index}] has the file {excerpt(file)}, which an entry before it has too")
            where = f"of images[{index}] ({excerpt(file)})"
            boxes.by_name[str(file)] = [
                _numbers(_values(one, f"detection {i} {where}", "box")[0], f"the box of detection {i} {where}")
                for i, one in _numbered(found, f"detections {where}")
            ]
    else:
        for name, rows in data.items():
            where = f"of {excerpt(name)}"
            boxes.by_name[name] = [
                _numbers(box, f"box {i} {where}") for i, box in _numbered(rows, f"the value {where}")
            ]
    if not boxes.by_name and not boxes.by_id:
        raise EntryError("the file contains no boxes")


def _add_annotations(boxes: BoxFile, data: dict[str, object]) -> None:
    """Add the boxes of a COCO annotation file; images without annotations have none."""
    names: dict[object, str] = {}
    for index, image in _numbered(data.get("images"), "images"):
        name = _name(image, f"images[{index}]")
        if name in boxes.by_name:
            raise EntryError(f"images[{index}] has the file name {excerpt(name)}, which an entry before it has too")
        boxes.by_name[name] = []
        names[str(_values(image, f"images[{index}]", "id")[0])] = name
    for index, entry in _numbered(data["annotations"], "annotations"):
        number, box = _values(entry, f"annotations[{index}]", "image_id", "bbox")
        if str(number) not in names:
            raise EntryError(f"annotations[{index}] has the image_id {excerpt(number)}, which is not in images")
        boxes.by_name[names[str(number)]].append(_corners(box, f"the bbox of annotations[{index}]"))


def _name(image: object, where: str) -> str:
    """The file name of an image in a COCO file; LVIS v1 has only its URL. Raises EntryError."""
    if isinstance(image, dict) and not image.get("file_name"):
        url = next((image[field] for field in URL_FIELDS if image.get(field)), None)
        if url is not None:
            return PurePosixPath(urlsplit(str(url)).path).name
    return str(_values(image, where, "file_name")[0])


def _add(boxes: BoxFile, image_id: object, box: list[float]) -> None:
    if isinstance(image_id, int):
        boxes.by_id.setdefault(image_id, []).append(box)
    else:
        boxes.by_name.setdefault(str(image_id), []).append(box)


def _values(entry: object, where: str, *keys: str) -> list[object]:
    """The values of `keys` in an object of the file. Raises EntryError if it is not an object or lacks a key."""
    if not isinstance(entry, dict) or not entry.keys() >= set(keys):
        raise EntryError(f"{where} is {excerpt(entry)}, expected an object with {' and '.join(keys)}")
    return [entry[key] for key in keys]


def _numbered(values: object, where: str) -> Iterator[tuple[int, object]]:
    """The values of a list with their indices. Raises EntryError if it is not a list."""
    if not isinstance(values, list):
        raise EntryError(f"{where} is {excerpt(values)}, expected a list")
    return enumerate(values)


def _corners(bbox: object, where: str) -> list[float]:
    """x1, y1, x2, y2 from COCO's x, y, width, height."""
    x, y, width, height = _numbers(bbox, where)
    return [x, y, x + width, y + height]


def _numbers(box: object, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(one) for one in box):
        raise EntryError(f"{where} is {excerpt(box)}, expected four finite numbers")
    return [float(one) for one in box]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
