"""The user's images on which int8 is calibrated and measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.data import Dataset, splits
from rcnn.data.defaults import default_training_split
from rcnn.data.held_out import HeldOut
from rcnn.data.images import ImageError, is_image
from rcnn.data.loading import pad_images
from rcnn.data.messages import counted, few
from rcnn.data.opening import DatasetOptions
from rcnn.evaluation.opening import dataset_for, validation_split
from rcnn.outputs import readable_entries
from rcnn.predictor import Predictor
from rcnn.runtime.record import ExportRecord
from rcnn.structures import ImageBatch


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """The images in the folder given with `--calibrate`."""

    files: tuple[Path, ...]  # to calibrate on: of the training split without those of `annotated`, or of the only split
    annotated: Dataset | None = None  # to measure AP on: held out or of the validation split; None: no data set


def find_calibration_images(folder: str | Path, record: ExportRecord) -> CalibrationImages:
    """The images in a data set, or in a folder of images without annotations.

    Raises FileNotFoundError if there are none, and ValueError for a data set that does not fit the model or has no
    image files in its training split.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"--calibrate {folder} does not exist; expected a data set or a folder of images")
    try:
        names = splits(folder)
    except FileNotFoundError:
        files = tuple(images_below(folder))
        if not files:
            raise FileNotFoundError(
                f"--calibrate {folder} has no images; expected a data set, or a folder of images like those that the "
                "model will see"
            ) from None
        return CalibrationImages(files=files)
    annotated = validation_images(record, folder)
    training = default_training_split(names) or validation_split(folder)
    source = dataset_for(record, folder, training, options=DatasetOptions(allow_empty=True))
    files = tuple(source.folder / name for name in source.file_names if name)
    if not files:
        raise ValueError(
            f"--calibrate {folder}: the split {source.split!r} has no image files; expected some, or a folder of images"
        )
    measured = {annotated.folder / name for name in annotated.file_names}
    files = tuple(file for file in files if file not in measured) or files  # the only split: both
    return CalibrationImages(files=files, annotated=annotated if len(annotated) else None)


def images_below(folder: Path) -> Iterator[Path]:
    """Image files in `folder` and its folders, sorted by name. Hidden files are skipped.

    Files that rcnn wrote are skipped too: pictures with detections drawn are not images that the model will see.
    """
    written = set[Path]()
    for here, folders, names in os.walk(folder):
        written |= {Path(here, name) for name in readable_entries(Path(here))[0]}
        own = {name for name in (*folders, *names) if name.startswith(".") or Path(here, name) in written}
        folders[:] = sorted({*folders} - own)
        yield from (Path(here, name) for name in sorted({*names} - own) if is_image(Path(here, name)))


def validation_images(record: ExportRecord, folder: str | Path) -> Dataset:
    """The images to measure AP on: those that the model's run held out from training, or the validation split.

    Raises ValueError or OSError for a data set that does not fit the model.
    """
    held_out = HeldOut.from_dict(record.provenance.get("held_out"))
    return dataset_for(record, folder, held_out=held_out, options=DatasetOptions(allow_empty=True))


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Up to `count` of the files, evenly spaced."""
    most = min(count, len(files))
    return [files[index * len(files) // most] for index in range(most)]


def batches(predictor: Predictor, files: Sequence[Path], failed: list[str] | None = None) -> Iterator[ImageBatch]:
    """Batches of one image, prepared for `predictor`. Images that cannot be read are skipped; `failed` receives why.

    Raises ValueError if none can be read.
    """
    errors = list[str]() if failed is None else failed
    for file in files:
        try:
            image, frame = predictor.prepare(file)
        except (ImageError, OSError) as error:
            errors.append(str(error))
        else:
            yield pad_images([image], predictor.config.input.divisor, "exact", [frame])
    if len(errors) == len(files):
        raise ValueError(f"cannot calibrate: none of {counted(len(files), 'image')} can be read: {few(errors, 1)}")
