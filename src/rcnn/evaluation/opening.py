"""Open what is evaluated: the model or the saved results, and the images that fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from rcnn.arguments import DATA, SPLIT, as_path, as_text
from rcnn.data import Dataset, splits
from rcnn.data.defaults import default_training_split, default_validation_split, is_named_as_test, is_validation_split
from rcnn.data.formats.files import is_one_file
from rcnn.data.held_out import HELD_OUT, HeldOut, find_held_out, held_out_part, is_of_other_files
from rcnn.data.messages import counted
from rcnn.data.opening import DatasetOptions, open_with
from rcnn.data.trained_images import TrainedImages
from rcnn.evaluation.plan import EvaluationOptions, limit_overrides
from rcnn.evaluation.results import has_proposals, held_out_record, is_results
from rcnn.models import DetectorConfig
from rcnn.predictor import Predictor
from rcnn.runtime.exported import is_exported
from rcnn.runtime.open_model import model_record
from rcnn.weights.files import CONFIG_FILE


def require_path_options(data: Dataset | str | Path, split: str | Path, options: DatasetOptions) -> None:
    """Raise ValueError for a wrong type, and for arguments that choose what is read of a path, with a Dataset."""
    as_text(split, "split", SPLIT)
    if not isinstance(data, Dataset):
        as_path(data, "the data set", f"{DATA}, or a Dataset")
        return
    names = ("annotations", "images", "relative_boxes", "ignore_other_classes", "strict", "allow_empty")
    ignored = [*(["split"] if split else []), *(name for name in names if getattr(options, name))]
    if ignored:
        raise ValueError(
            f"data is a Dataset, so {', '.join(ignored)} would have no effect: give "
            f"{'it' if len(ignored) == 1 else 'them'} to rcnn.open_dataset, which reads the data"
        )


class Model(Protocol):
    """The properties of a model that the data set depends on; of a predictor, or of the record of a checkpoint."""

    @property
    def config(self) -> DetectorConfig:
        """Config of the detector."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated, on which data set."""

    source: Predictor | Path  # a model, or saved results: a file or the folder of an evaluation
    dataset: Dataset
    warnings: tuple[str, ...]  # about the choice of the images


def open_subject(
    source: Path,
    data: Dataset | str | Path,
    split: str,
    *,
    load: Callable[[Sequence[str]], Predictor],
    overrides: Sequence[str],
    options: DatasetOptions,
    evaluation: EvaluationOptions,
) -> Subject:
    """The model of a checkpoint, or saved results, with the data set in the form that they need.

    `load` makes the predictor from KEY=VALUE settings: `overrides`, and limits raised to the number of detections that
    the metric counts. ValueError or OSError for an input that cannot be used.
    """
    if not is_results(source):
        record = model_record(source, overrides)
        options = replace(options, one_class=record.config.proposals_only)
    elif overrides:
        raise ValueError(
            f"{overrides[0]}: settings apply to a model, but {source} contains results; leave the settings out"
        )
    else:
        record = None
        options = replace(options, one_class=has_proposals(source), optional_files=True)
    if isinstance(data, Dataset):
        dataset = in_one_class(data, record) if options.one_class else data
        split, held_out = data.split, None
    else:
        held_out = held_out_of(source)
        dataset = dataset_for(record, data, split, held_out=held_out, options=options)
    warnings = trained_on_warning(dataset, split, held_out=held_out, trained=trained_images_of(source), model=source)
    if record is None:
        return Subject(source=source, dataset=dataset, warnings=warnings)
    limits: list[str] = []
    if not is_exported(source):  # an exported file has fixed settings; the evaluation warns if it returns too few
        limits = limit_overrides(
            record.config, dataset, max_detections=evaluation.max_detections, metric=evaluation.metric
        )
    return Subject(source=load([*overrides, *limits]), dataset=dataset, warnings=warnings)


def in_one_class(dataset: Dataset, model: Model | None) -> Dataset:
    """`dataset` with the one class of a region proposal network; None: of its results, which do not say its name."""
    return dataset.as_one_class("object" if model is None else model.classes[0])


def dataset_for(
    model: Model | None,
    data: str | Path,
    split: str = "",
    *,
    held_out: HeldOut | None = None,
    options: DatasetOptions | None = None,
) -> Dataset:
    """The split of a data set (default: the validation split) with the classes and keypoints that a model needs.

    If the model's run held out images from training (`held_out`), the result has these images, from all splits that
    contain them, unless `split` is given or the data set does not contain them. Without a model, it has all classes of
    the data set. `options` as in `open_dataset`. ValueError or OSError if the data set cannot be used.
    """
    options = options or DatasetOptions()
    annotations = options.annotations
    if model is not None:
        keypoints, one_class = model.config.keypoint is not None, model.config.proposals_only
        options = replace(options, keypoints=keypoints, one_class=one_class)
    opened = partial(open_with, options, data, classes=None if model is None else model.classes)
    if split:
        return opened(split)
    if held_out is None:
        return opened(validation_split(data, annotations))
    known = [held_out.split] if is_one_file(annotations) else splits(data, annotations)
    its_split = all(part in known or part.endswith(".txt") for part in held_out.split.split("+"))
    usual = default_validation_split(known) or default_training_split(known) or known[0]
    dataset = opened(held_out.split if its_split else usual)
    indices = find_held_out(dataset, held_out)
    if len({dataset.file_names[index] for index in indices}) < len(held_out.files):
        opened_names = {dataset.split, *dataset.split.split("+")}
        others = [one for one in known if one not in opened_names]
        also = _splits_with_held_out(others, held_out, data, options)
        if also:
            dataset = opened("+".join([dataset.split, *also] if indices else also))
            indices = find_held_out(dataset, held_out)
    if indices:
        part = held_out_part(dataset, indices)
        return replace(part, notes=(*part.notes, _held_out_note(dataset, part, held_out, known)))
    default = dataset.split if is_one_file(annotations) else validation_split(data, annotations)  # of another data set
    return opened(default) if default != dataset.split else dataset


def _splits_with_held_out(
    names: Sequence[str], held_out: HeldOut, data: str | Path, options: DatasetOptions
) -> list[str]:
    """The splits that contain held-out images; splits that cannot be opened are skipped.

    Image files are only read in a split that has some of the file names, because a split can be large.
    """
    stems = {PurePosixPath(name).stem for name in held_out.files}
    found: list[str] = []
    for name in names:
        with suppress(ValueError, OSError):
            dataset = open_with(options, data, name)
            has_names = any(PurePosixPath(one).stem in stems for one in dataset.file_names)
            if has_names and find_held_out(dataset, held_out):
                found.append(name)
    return found


def _held_out_note(dataset: Dataset, part: Dataset, held_out: HeldOut, known: Sequence[str]) -> str:
    """A note on the evaluated images, `part` of `dataset`, and on how to choose others; `known`: all splits."""
    evaluated = counted(len(part), "image") + f" of {dataset.split}"
    if (elsewhere := len(held_out.files) - len(set(part.file_names))) > 0:
        others = f"the other {elsewhere} that it held out" if elsewhere > 1 else "the other one that it held out"
        note = f"evaluating on {evaluated} that the run held out from training ({others}: not in this split)"
    else:
        note = f"evaluating on the {evaluated} that the run held out from training"
    if is_of_other_files(part, held_out):
        note += " (they have the names of these images, but other contents: edited, or photos of another data set)"
    choices = [f"split={dataset.split} (--split) evaluates on {_all_images(dataset)}"]
    choices += [
        f"split={name} (--split) on that split" for name in known if is_validation_split(name) and name != dataset.split
    ]
    return f"{note}; {', '.join(choices)}"


def _all_images(dataset: Dataset) -> str:
    return f"all {counted(len(dataset), 'image')} of it" if len(dataset) > 1 else "its image"


def held_out_of(source: str | Path) -> HeldOut | None:
    """The images that the run of a checkpoint held out from training; None if it held out none.

    `source` may also be the output folder of an evaluation on such images, or a results file in it. Raises ValueError
    for a damaged record.
    """
    folder = Path(source)
    if is_results(folder):
        file, value = held_out_record(folder)
    else:
        file, value = folder / CONFIG_FILE, model_record(source).provenance.get("held_out")
    try:
        return HeldOut.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def trained_images_of(source: str | Path) -> TrainedImages | None:
    """The images that a checkpoint was trained on; None if it does not record them, or for saved results.

    Raises ValueError for a damaged record.
    """
    if is_results(Path(source)):
        return None
    try:
        return TrainedImages.from_dict(model_record(source).provenance.get("trained_images"))
    except ValueError as error:
        raise ValueError(f"{Path(source) / CONFIG_FILE}: {error}") from error


def trained_on_warning(
    dataset: Dataset,
    split: str,
    *,
    held_out: HeldOut | None = None,
    trained: TrainedImages | None = None,
    model: str | Path = "the model",
) -> tuple[str, ...]:
    """A warning if `model` was, or may have been, trained on some of the images of `dataset`, opened with `split`.

    `held_out` and `trained`: the images that the run of the model held out from training, and those that it used.
    """
    if dataset.split.endswith(HELD_OUT):
        return ()
    if trained is not None:
        advice = "Evaluate on images that it was not trained on"
        if held_out is not None and split:
            advice = "Leave split (--split) out to evaluate on the images that the run held out"
        if found := trained.warning(dataset, str(model), advice):
            return found
    if held_out is not None and not split:
        return (
            f"none of {counted(len(held_out.files), 'image')} that the run held out from training "
            f"{'is' if len(held_out.files) == 1 else 'are'} in the data set of {dataset.annotation_file}: if it "
            "contains images that the model was trained on, the metrics say little about other images",
        )
    if trained is not None and dataset.has_files:
        return ()
    if split or is_validation_split(dataset.split) or is_named_as_test(dataset.split):
        return ()
    return (
        f"{dataset.annotation_file} is the only split: if the model was trained on these images, the metrics say "
        "nothing about other images. Add a validation split to measure that",
    )


def validation_split(data: str | Path, annotations: str = "") -> str:
    """The split of a data set to evaluate on: the first with a name that starts with "val", or the only one.

    Raises ValueError, with the names of all splits, if there is none.
    """
    known = splits(data, annotations)
    named = default_validation_split(known)
    if not named and len(known) != 1:
        raise ValueError(
            f"{data} has the splits {', '.join(known)}; none starts with 'val'. Choose one with split (--split)"
        )
    return named or known[0]
