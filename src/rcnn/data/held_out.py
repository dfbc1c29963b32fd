"""Validation images that are held out from a training split if the data set has no validation split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePosixPath
from typing import Any, cast

from rcnn.arguments import plain, shown
from rcnn.data.messages import counted, excerpt, few
from rcnn.data.records import Dataset
from rcnn.data.similarity import content_hash, fingerprints
from rcnn.data.split import MIN_IMAGES, class_counts, divide_images
from rcnn.data.writing import image_sources

DEFAULT_FRACTION = 0.2
HELD_OUT = " (held out)"  # after the name of the split
HELD_OUT_FILE = "held_out.json"  # in the folder of an evaluation on held-out images
COMPARED = 20  # files with the names of held-out images that are read to learn whether they are the same


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Which images of a split are held out from training."""

    split: str  # as the user named it, e.g. "train", "a+b"
    fraction: float
    files: tuple[str, ...]  # file names within the folder of the data set; each once, though images may share a file
    contents: tuple[str, ...]  # `content_hash` of each file; empty if not known

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, for the folder of a run."""
        return {
            "split": self.split,
            "fraction": self.fraction,
            "files": list(self.files),
            "contents": list(self.contents),
        }

    @classmethod
    def of(cls, dataset: Dataset) -> HeldOut | None:
        """The record of a data set that `held_out_part` made (fraction 0: not known); None for any other data set."""
        if not dataset.split.endswith(HELD_OUT):
            return None
        files = tuple(dict.fromkeys(dataset.file_names))
        return cls(split=dataset.split.removesuffix(HELD_OUT), fraction=0.0, files=files, contents=())

    @classmethod
    def from_dict(cls, value: Any) -> HeldOut | None:
        """What `to_dict` wrote; None for None. Raises ValueError for anything else."""
        if value is None:
            return None
        expected = {"split": str, "fraction": float, "files": list, "contents": list}
        if not isinstance(value, dict) or any(not isinstance(value.get(key), kind) for key, kind in expected.items()):
            raise ValueError(
                f"held_out: expected an object with split, fraction, files and contents, got {excerpt(value)}"
            )
        if not value["files"] or not all(isinstance(name, str) for name in value["files"]):
            raise ValueError(f"held_out.files: expected a list of file names, got {excerpt(value['files'])}")
        if not all(isinstance(one, str) for one in value["contents"]):
            raise ValueError(f"held_out.contents: expected a list of hashes, got {excerpt(value['contents'])}")
        return cls(
            split=value["split"],
            fraction=value["fraction"],
            files=tuple(value["files"]),
            contents=tuple(value["contents"]),
        )


def require_fraction(fraction: float) -> float:
    """`fraction` as a number of Python. Raises ValueError unless it is at least 0 and less than 1."""
    number = plain(fraction)
    if not isinstance(number, Real) or isinstance(number, bool) or not 0 <= cast("float", number) < 1:
        raise ValueError(
            f"val_fraction={shown(fraction, 60)} (--val-fraction): expected 0 (no images) to less than 1, e.g. 0.2"
        )
    return float(number)


def hold_out(dataset: Dataset, fraction: float, advance: Callable[[], None] | None = None) -> HeldOut | None:
    """Choose about `fraction` of the images, by their contents, so that each class keeps its share.

    See `divide_images`; images with one file stay together. None for fewer than 10 images, or if none would be left in
    a part. Reads every image, with a call of `advance` after each. Raises OSError for an image that cannot be read.
    """
    if len(dataset) < MIN_IMAGES or not fraction:
        return None
    prints = fingerprints(image_sources(dataset), advance=advance)
    indices = divide_images(class_counts(dataset), prints, (1 - fraction, fraction))[1]
    contents = {dataset.file_names[index]: prints[index].content for index in indices}
    if not contents or contents.keys() >= set(dataset.file_names):
        return None
    return HeldOut(split=dataset.split, fraction=fraction, files=tuple(contents), contents=tuple(contents.values()))


def divide_held_out(dataset: Dataset, held_out: HeldOut) -> tuple[Dataset, Dataset]:
    """The images to train on, and the held-out images. Raises ValueError if a held-out image is not in `dataset`."""
    held = indices_of(dataset, held_out.files)
    others = sorted(set(range(len(dataset))) - set(held))
    return dataset.subset(others), held_out_part(dataset, held)


def held_out_part(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    """The held-out images as a data set, with a name that says so."""
    return dataset.subset(indices, f"{dataset.split}{HELD_OUT}")


def indices_of(dataset: Dataset, files: Sequence[str]) -> list[int]:
    """The indices of all images with one of `files`, ascending. Raises ValueError for names that `dataset` lacks."""
    wanted, known = set(files), set(dataset.file_names)
    missing = [name for name in files if name not in known]
    if missing:
        raise ValueError(f"{_lacks(dataset, missing)}. Use the data set of the run")
    return [index for index, name in enumerate(dataset.file_names) if name in wanted]


def _lacks(dataset: Dataset, missing: Sequence[str]) -> str:
    return (
        f"{dataset.annotation_file} does not have {counted(len(missing), 'image')} that the run held out from "
        f"training ({few(missing)}); the data set has changed, or it is another one"
    )


def find_held_out(dataset: Dataset, held_out: HeldOut) -> list[int]:
    """The indices of the held-out images in a data set, which may be another export of the same photos; [] if none.

    Images are matched by file name, else by file name without folder and suffix, else by content. Raises ValueError if
    the split from which they were held out has lost some of the files, and OSError for a file that cannot be read.
    """
    known = set(dataset.file_names)
    missing = [name for name in held_out.files if name not in known]
    if not missing:
        return indices_of(dataset, held_out.files)
    common = indices_of(dataset, [name for name in held_out.files if name in known])
    if dataset.split == held_out.split and common and not is_of_other_files(dataset.subset(common), held_out):
        raise ValueError(
            f"{_lacks(dataset, missing)}. Use the data set of the run, or name the split with split (--split), to "
            "evaluate on all of its images"
        )
    stems = [PurePosixPath(name).stem for name in dataset.file_names]
    wanted, uses = {PurePosixPath(name).stem for name in held_out.files}, Counter(stems)
    if len(wanted) == len(held_out.files) and all(uses[stem] == 1 for stem in wanted):
        return [index for index, stem in enumerate(stems) if stem in wanted]
    if not held_out.contents or not dataset.has_files:
        return []
    contents = set(held_out.contents)
    return [index for index, source in enumerate(image_sources(dataset)) if content_hash(source) in contents]


def is_of_other_files(dataset: Dataset, held_out: HeldOut) -> bool:
    """Whether a data set has other files than those that were held out: edited, or other photos with the same names.

    Up to COMPARED files are read; one that is the same suffices. False if the record has no contents.
    """
    if not held_out.contents or not dataset.has_files:
        return False
    contents = set(held_out.contents)
    files = list(dict.fromkeys(image_sources(dataset)))[:COMPARED]
    return not any(content_hash(file) in contents for file in files)
