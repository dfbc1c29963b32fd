"""The data of a run: the training set, the validation sets, and the reasons for them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rcnn.data import Dataset, open_dataset, splits
from rcnn.data.checks.tables import Id
from rcnn.data.defaults import default_training_split, default_validation_split
from rcnn.data.formats.files import is_one_file
from rcnn.data.held_out import DEFAULT_FRACTION, HeldOut, divide_held_out, hold_out, indices_of, require_fraction
from rcnn.data.inspect.classes import rare_similar_classes
from rcnn.data.messages import counted
from rcnn.data.readable import report_unreadable, without_unreadable
from rcnn.data.selection import LIST_SUFFIX
from rcnn.data.split import MIN_IMAGES, absent_classes, class_counts, share_text
from rcnn.data.trained_images import copied_images
from rcnn.models import DetectorConfig
from rcnn.training.request import RunRequest

NO_SPLIT = "none"  # name of the validation split for a run without evaluation
REPORT_EVERY = 10.0  # seconds
NO_VALIDATION_SPLIT = "no split starts with 'val'"
CHECKING = "checking the headers of image files"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run."""

    training: Dataset
    validations: tuple[Dataset, ...]  # the first chooses best/; none: the run is never evaluated
    held_out: HeldOut | None  # which images of the training split are the validation set
    reasons: dict[str, str]  # "split", "val-split" -> reason, for splits that were chosen and held-out images
    left_out: tuple[Id, ...] = ()  # ids of training images that could not be read when the run was started

    @property
    def every(self) -> dict[str, Dataset]:
        """All data sets by the names of their splits; a validation set may have the name of the training set."""
        name = self.training.split
        others = {one.split if one.split != name else f"{name} (validation)": one for one in self.validations}
        return {name: self.training} | others

    @property
    def record(self) -> dict[str, Any]:
        """For the record of the run."""
        training = self.training.split
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        if self.held_out is not None:
            return {"splits": [training, NO_SPLIT], "held_out": self.held_out.to_dict(), **left_out}
        return left_out | {"splits": [training, *([one.split for one in self.validations] or [NO_SPLIT])]}


def open_run_data(
    request: RunRequest,
    config: DetectorConfig,
    record: Mapping[str, Any] | None,
    *,
    filter_empty: bool,
    log: Callable[[str], object],
) -> RunData:
    """The data that `request` asks for, with the keypoints that a model of `config` needs.

    `log` receives progress messages while the images of a large data set are read.

    ValueError or OSError if the data cannot be used; in a run that is resumed, the message names its `record`.
    """
    try:
        data = _open(request, config, record, log)
        return replace(data, training=_without_empty(data.training)) if filter_empty else data
    except (ValueError, OSError) as error:
        if record is None:
            raise
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else error
        raise ValueError(
            f"{reason}\nThe splits, annotations and classes of this run are those in {request.record_file}"
        ) from error


def _open(
    request: RunRequest, config: DetectorConfig, record: Mapping[str, Any] | None, log: Callable[[str], object]
) -> RunData:
    classes = None if record is None else record["classes"]
    _require_used(request, is_new=record is None)
    if isinstance(request.data, Dataset):
        training, validations, reasons = _given_data(request, classes)
    else:
        split, val_splits, reasons = choose_splits(request)
        opened = partial(
            open_dataset,
            request.data,
            keypoints=config.keypoint is not None,
            one_class=config.proposals_only,
            annotations=request.annotations,
            images=request.images,
            relative_boxes=request.relative_boxes,
            strict=request.strict,
            allow_empty=request.allow_empty,
        )
        training = opened(split, classes=classes)
        validations = tuple(opened(name, classes=training.classes) for name in val_splits)
    if record is None:
        validations = tuple(
            report_unreadable(one, _progress(CHECKING, len(one), log), strict=request.strict) for one in validations
        )
    found, training = training, _readable(training, request, record, log)  # before images are held out
    kept = set(training.image_ids)
    left_out = tuple(one for one in found.image_ids if one not in kept)
    held_out, reason = _held_out(request, training, record, log, evaluated=bool(validations))
    if reason:
        reasons["val-split"] = "; ".join((*([reasons["val-split"]] if "val-split" in reasons else []), reason))
    if held_out is not None:
        training, validation = divide_held_out(training, held_out)
        validations = (validation,)
    return RunData(training=training, validations=validations, held_out=held_out, reasons=reasons, left_out=left_out)


def _require_used(request: RunRequest, *, is_new: bool) -> None:
    """ValueError for an argument that data of this kind would ignore; a run that is resumed has those of its record."""
    if not isinstance(request.data, Dataset):
        if request.validation is not None:
            raise ValueError(
                f"validation is a Dataset, but data is the path {request.data}: name a validation split with "
                "val_split, or pass both as data sets, data=rcnn.open_dataset(...) and validation=..."
            )
        return
    if not is_new:
        return
    val_split = "" if request.val_splits == (NO_SPLIT,) else ", ".join(request.val_splits)
    if val_split:
        raise ValueError(
            f"val_split={val_split} names a split of a folder, but data is a Dataset: pass the validation set as "
            "validation=rcnn.open_dataset(...)"
        )
    if request.val_splits and request.validation is not None:
        raise ValueError(f"val_split={NO_SPLIT} means no evaluation, but validation is given: leave one of them out")
    names = ("split", "annotations", "images", "relative_boxes")
    if ignored := [name for name in names if getattr(request, name)]:
        raise ValueError(
            f"data is a Dataset, so {', '.join(ignored)} would have no effect: give "
            f"{'it' if len(ignored) == 1 else 'them'} to rcnn.open_dataset, which reads the data"
        )


def _readable(
    training: Dataset, request: RunRequest, record: Mapping[str, Any] | None, log: Callable[[str], object]
) -> Dataset:
    """The training images that can be read; the warnings of the data set name the others.

    A run that is resumed leaves out the images of its `record`, whatever happened to the files since, so that it
    continues on the same batches.
    """
    if record is not None:
        left_out = {one for one in record.get("left_out", ()) if isinstance(one, (int, str))}
        kept = [place for place, one in enumerate(training.image_ids) if one not in left_out]
        return training.subset(kept) if len(kept) < len(training) else training
    advance = _progress(CHECKING, len(training), log)
    return without_unreadable(training, advance, strict=request.strict, allow_empty=request.allow_empty)


def _given_data(request: RunRequest, classes: list[str] | None) -> tuple[Dataset, tuple[Dataset, ...], dict[str, str]]:
    """The data sets that the user passed from Python."""
    training, validation = request.data, request.validation
    assert isinstance(training, Dataset)
    for dataset in (training, validation):
        if dataset is not None and list(dataset.classes) != list(classes or training.classes):
            raise ValueError(
                f"{dataset.annotation_file} has the classes {', '.join(dataset.classes)}; expected "
                f"{', '.join(classes or training.classes)} in this order: open it with classes=..."
            )
    reasons = {} if validation is not None or request.val_splits else {"val-split": "no validation data given"}
    return training, () if validation is None else (validation,), reasons


def choose_splits(request: RunRequest) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The training split and the validation splits (none: ()), and the reasons for those that were not given."""
    assert not isinstance(request.data, Dataset)
    _require_different(request.val_splits)
    one_file = bool(request.split) and is_one_file(request.annotations)
    if one_file:
        _require_lists(request)
    names = list[str]() if one_file else splits(request.data, request.annotations)
    reasons: dict[str, str] = {}
    training, validations = request.split, tuple(name for name in request.val_splits if name != NO_SPLIT)
    if not training:
        training = default_training_split(names)
        if not training:
            raise ValueError(
                f"{request.data} has the splits {', '.join(names)}; none starts with 'train'. Choose one with split "
                "(--split)"
            )
        reasons["split"] = "the only split" if len(names) == 1 else "its name starts with 'train'"
    if not request.val_splits and not request.val_fraction:
        default = default_validation_split(names, training)
        validations = (default,) if default else ()
        start = "minival" if default.lower().startswith("minival") else "val"
        reasons["val-split"] = f"its name starts with '{start}'" if default else NO_VALIDATION_SPLIT
        if request.val_fraction == 0 and not default:
            reasons["val-split"] += ", and val_fraction=0 (--val-fraction) holds no images out"
    return training, validations, reasons


def _require_lists(request: RunRequest) -> None:
    """ValueError for a validation split that is the whole of the only annotation file: it contains training images."""
    whole = [name for name in request.val_splits if name != NO_SPLIT and not name.endswith(LIST_SUFFIX)]
    if whole:
        raise ValueError(
            f"val_split (--val-split) is {whole[0]}, but {request.annotations} is one file for all splits, so that is "
            "all of its images; expected a list of images, e.g. ids.txt, or no val_split, which holds images out"
        )


def _require_different(val_splits: Sequence[str]) -> None:
    """ValueError if a validation split is named twice, or next to NO_SPLIT."""
    if repeated := [name for name, uses in Counter(val_splits).items() if uses > 1]:
        raise ValueError(f"val_split (--val-split) has {repeated[0]} twice; name each split once")
    if NO_SPLIT in val_splits and len(val_splits) > 1:
        others = ", ".join(name for name in val_splits if name != NO_SPLIT)
        raise ValueError(
            f"val_split (--val-split) is {NO_SPLIT} and also {others}; expected {NO_SPLIT} alone, which means no "
            "evaluation, or the splits to evaluate"
        )


def _held_out(
    request: RunRequest,
    training: Dataset,
    record: Mapping[str, Any] | None,
    log: Callable[[str], object],
    *,
    evaluated: bool,
) -> tuple[HeldOut | None, str]:
    """The images to hold out for validation, with their share, or the reason why none are held out."""
    if record is not None:
        return HeldOut.from_dict(record.get("held_out")), ""
    fraction = request.val_fraction
    if fraction is not None:
        require_fraction(fraction)
    if request.val_splits or request.validation is not None:
        if fraction:
            raise ValueError("val_fraction (--val-fraction) and a validation split (--val-split): give one of them")
        return None, ""
    if evaluated or fraction == 0:
        return None, ""
    if not training.has_files:
        return None, "its images are not files, so none are held out"
    wanted = DEFAULT_FRACTION if fraction is None else fraction
    held_out = hold_out(training, wanted, _progress("choosing validation images", len(training), log))
    if held_out is not None:
        held = indices_of(training, held_out.files)
        verb = "is" if len(held) == 1 else "are"
        count = f"{len(held)} of {counted(len(training), 'image')}"
        counts = class_counts(training)
        absent = absent_classes(training.classes, counts.totals(held), counts.totals())
        share = share_text(len(held) / len(training), wanted, absent)
        return held_out, f"{count} {verb} held out from training, see val_fraction (--val-fraction): {share}"
    if fraction:
        raise ValueError(
            f"{training.annotation_file} has {counted(len(training), 'image')}, too few to hold out {fraction:g} of "
            f"them; expected at least {MIN_IMAGES}. Leave val_fraction (--val-fraction) out, or name a validation split"
        )
    if len(training) < MIN_IMAGES:
        return None, f"fewer than {MIN_IMAGES} images, so none are held out"
    return None, "too many images are copies of each other, so none are held out"


def shared_images(data: RunData) -> Iterator[str]:
    """A warning for each validation set that shares images with the training set, under the same or another name."""
    for validation in data.validations:
        if shared := copied_images(validation, data.training):
            which = "all" if shared == len(validation) > 1 else f"{shared} of the"
            yield (
                f"{which} {counted(len(validation), 'image')} of {validation.split} {'is' if shared == 1 else 'are'} "
                f"also in the training split {data.training.split}, so its metrics do not measure how well the model "
                "does on new images. Choose other splits; `rcnn data check DIR` lists such images"
            )


def misspelt_classes(data: RunData) -> tuple[str, ...]:
    """A warning about classes with very few objects and a name like that of a class with many."""
    return tuple(one.line() for one in rare_similar_classes([data.training, *data.validations]))


def _progress(what: str, images: int, log: Callable[[str], object]) -> Callable[..., None]:
    """A function to call after each image, or each `count` images; logs their number every REPORT_EVERY seconds."""
    done, reported = 0, time.monotonic()

    def advance(count: int = 1) -> None:
        nonlocal done, reported
        done = min(done + count, images)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            log(f"{what}: {done} of {counted(images, 'image')} read")

    return advance


def _without_empty(dataset: Dataset) -> Dataset:
    """The images with objects that are not ignored (train.filter_empty)."""
    objects = dataset.objects
    owners = objects.image_index
    indices = np.unique(owners[~objects.ignored])
    if not len(indices):
        raise ValueError(
            f"train.filter_empty=true: no image of {dataset.annotation_file} has an object to train on: leave "
            "train.filter_empty out, or choose another split (--split)"
        )
    return dataset.subset(indices)
