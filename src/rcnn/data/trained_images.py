"""The images a model is trained on: which of them are in the validation set, or in the data of an evaluation.

An evaluation knows them from a record in the checkpoint. The record is small even for a large data set: it has the
RECORDED smallest hashes of all images (a bottom-k sketch, Cohen and Kaplan 2007). With up to RECORDED training images,
counts are exact; with more, they are estimates.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.images import ImageError, embedded_image, is_embedded
from rcnn.data.messages import counted, excerpt
from rcnn.data.records import Dataset
from rcnn.data.similarity import content_hash

RECORDED = 1000  # largest number of hashes in a record
DIGITS = 12  # hexadecimal digits of a hash
BLOCK = 4096  # bytes that are compared, from the middle: JPEG files of one program often start with the same bytes


@dataclass(frozen=True, kw_only=True)
class TrainedImages:
    """Which images a model was trained on."""

    split: str  # as the user named it, e.g. "train", "a+b"
    count: int
    hashes: tuple[str, ...]  # the smallest ones, ascending

    @classmethod
    def of(cls, dataset: Dataset) -> TrainedImages | None:
        """The record of a data set; None if its images are not files."""
        if not dataset.has_files:
            return None
        hashes = sorted(set(_hashes(dataset)))
        return cls(split=dataset.split, count=len(dataset), hashes=tuple(hashes[:RECORDED]))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, for the folder of a run and its checkpoints."""
        return {"split": self.split, "count": self.count, "hashes": " ".join(self.hashes)}

    @classmethod
    def from_dict(cls, value: Any) -> TrainedImages | None:
        """What `to_dict` wrote; None for None. Raises ValueError for anything else."""
        if value is None:
            return None
        expected = {"split": str, "count": int, "hashes": str}
        if not isinstance(value, dict) or any(not isinstance(value.get(key), kind) for key, kind in expected.items()):
            raise ValueError(f"trained_images: expected an object with split, count and hashes, got {excerpt(value)}")
        return cls(split=value["split"], count=value["count"], hashes=tuple(value["hashes"].split()))

    @property
    def is_complete(self) -> bool:
        """Whether every image has its hash in the record."""
        return self.count <= RECORDED

    def count_in(self, dataset: Dataset) -> int:
        """The number of images of `dataset` that the model was trained on; an estimate unless `is_complete`."""
        if not dataset.has_files or not self.hashes:
            return 0
        hashes, known = _hashes(dataset), set(self.hashes)
        found = sum(one in known for one in hashes)
        if self.is_complete:
            return found
        sampled = sum(one <= self.hashes[-1] for one in hashes)
        return round(len(dataset) * found / sampled) if sampled else 0

    def warning(self, dataset: Dataset, model: str, advice: str) -> tuple[str, ...]:
        """A warning if `model` was trained on images of `dataset`; empty if not. `advice`: a sentence: what to do."""
        found = self.count_in(dataset)
        if not found:
            return ()
        images = counted(len(dataset), "image")
        which = f"{found} of the {images}" if self.is_complete else f"about {found} of the {images}"
        if self.is_complete and found == len(dataset) > 1:
            which = f"all {images}"
        return (
            f"{model} was trained on {which} of {dataset.split} (its training split was {self.split}), so these "
            f"metrics do not measure how well it does on new images. {advice}",
        )


def copied_images(dataset: Dataset, training: Dataset) -> int:
    """The number of images of `dataset` that are also in `training`, as the same file or as a copy with any name.

    Copies have the same height, width and content. Few files are read: only where the size in bytes agrees, the BLOCK
    bytes in the middle, and only where these agree, the whole file.
    """
    if not dataset.has_files or not training.has_files:
        return 0
    own, others = _sized_files(dataset), _sized_files(training)
    common = own.keys() & others.keys()
    return sum(_number_shared(own[key], others[key], key[2]) for key in common)


def _number_shared(files: Sequence[Path], others: Sequence[Path], size: int) -> int:
    """The number of `files` with the content of one of the `others`; all are `size` bytes long."""
    own: dict[bytes, list[Path]] = {}
    known: dict[bytes, set[Path]] = {}
    for file in files:
        own.setdefault(_middle(file, size), []).append(file)
    for other in others:
        known.setdefault(_middle(other, size), set()).add(other)
    shared = 0
    for block in own.keys() & known.keys():
        left = [file for file in own[block] if file not in known[block]]
        contents = {_content(other) for other in known[block]} if left else set[str]()  # each file is read once
        shared += len(own[block]) - len(left) + sum(_content(file) in contents for file in left)
    return shared


def _content(file: Path) -> str:
    """The hash of the content of an image file; for a file that cannot be read, its path."""
    try:
        return content_hash(file)
    except OSError:
        return str(file)


def _sized_files(dataset: Dataset) -> dict[tuple[int, int, int], list[Path]]:
    """The image files by height, width and size in bytes; without files that are missing."""
    found: dict[tuple[int, int, int], list[Path]] = {}
    for name, (height, width) in zip(dataset.file_names, dataset.sizes.tolist(), strict=True):
        file = dataset.folder / name
        with suppress(OSError):  # what is missing is reported when it is read
            found.setdefault((height, width, os.stat(file).st_size), []).append(file)
    return found


def _middle(file: Path, size: int) -> bytes:
    """Up to BLOCK bytes in the middle of a file of `size` bytes; empty for a file that cannot be read."""
    try:
        with file.open("rb") as content:
            content.seek(max(0, size - BLOCK) // 2)
            return content.read(BLOCK)
    except OSError:
        return b""


def _hashes(dataset: Dataset) -> list[str]:
    """A hash of the name without folder and suffix, the height and width, and the size in bytes of each image.

    Images of another export of the same photos therefore have the same hashes, even if embedded in labelme files.
    """
    found: list[str] = []
    for name, (height, width) in zip(dataset.file_names, dataset.sizes.tolist(), strict=True):
        size = 0
        with suppress(OSError, ImageError):  # what is missing or damaged is reported when it is read
            size = size_in_bytes(dataset.folder / name)
        key = f"{PurePosixPath(name).stem}\0{height}\0{width}\0{size}"
        found.append(hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:DIGITS])
    return found


def size_in_bytes(file: Path) -> int:
    """The size of an image file, or of the image embedded in a labelme file."""
    return len(embedded_image(file)) if is_embedded(file) else os.stat(file).st_size
