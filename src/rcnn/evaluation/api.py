"""The public function `rcnn.evaluate`, and the data set that fits a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from rcnn.data import Dataset, open_dataset, splits
from rcnn.data.defaults import default_validation_split
from rcnn.data.held_out import HELD_OUT, HELD_OUT_FILE, HeldOut, find_held_out, held_out_part
from rcnn.data.messages import counted
from rcnn.evaluation.evaluate import Evaluation, evaluate_dataset
from rcnn.evaluation.plan import limit_settings
from rcnn.evaluation.results import is_results
from rcnn.metrics.inputs import read_json
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device, Precision
from rcnn.weights.checkpoint import CONFIG_FILE, read_checkpoint


def evaluate(
    model: Predictor | str | Path,
    data: Dataset | str | Path,
    *,
    split: str = "",
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    max_detections: int | None = None,
    metric: str = "",
    strict: bool = False,
    allow_empty: bool = False,
    device: Device = "auto",
    precision: Precision = "float32",
    allow: str | Sequence[str] = (),
) -> Evaluation:
    """The metrics of a checkpoint (or predictor) on a data set (or its folder).

    `split` (as in `open_dataset`) defaults to the images that the run of the checkpoint held out from training, or,
    where it held out none, to the validation split. `annotations`: the annotation file within the folder, e.g.
    "labels/{split}.json"; default: found by its name. `images` and `relative_boxes` as in `open_dataset`.
    `limit`: number of images, the first ones (0 = all). `batch_size`: images per forward pass. `workers`: threads that
    read images. `max_detections`: detections per image and class that count; defaults to COCO's 100 (keypoints 20,
    proposals 1000) or LVIS' 300 per image. A checkpoint's own limit is raised to it; for a predictor that returns
    fewer, there is a warning. `metric`: "coco", "voc2007", "voc2012" or "lvis"; defaults to that of the data set's
    format. `strict` and `allow_empty` as in `open_dataset`.
    `device`, `precision` and `allow` (see `rcnn.load`) are for a checkpoint; a predictor has its own.

    The result has `metrics` (e.g. `metrics.kinds["bbox"]["AP"]`), `results`, the detections in COCO's format, `failed`,
    the images that could not be read, and `warnings`.
    Raises FileNotFoundError or ValueError for a checkpoint or data set that cannot be used.
    """
    if isinstance(model, Predictor):
        predictor = model
    else:
        predictor = Predictor(model, device=device, precision=precision, allow=allow)
    held_out = None if isinstance(model, Predictor) else held_out_of(model)
    dataset = (
        data
        if isinstance(data, Dataset)
        else dataset_for(
            predictor,
            data,
            split,
            held_out=held_out,
            annotations=annotations,
            images=images,
            relative_boxes=relative_boxes,
            strict=strict,
            allow_empty=allow_empty,
        )
    )
    more = limit_settings(predictor.config, dataset, max_detections=max_detections, metric=metric)
    if more and not isinstance(model, Predictor):
        predictor = Predictor(model, device=device, precision=precision, settings=more, allow=allow)
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        max_detections=max_detections,
        metric=metric,
    )
    chosen = () if isinstance(data, Dataset) else trained_on_warning(dataset, split, held_out)
    return replace(evaluation, warnings=chosen + evaluation.warnings)


def dataset_for(
    predictor: Predictor | None,
    data: str | Path,
    split: str = "",
    *,
    held_out: HeldOut | None = None,
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    one_class: bool = False,
    ignore_others: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
) -> Dataset:
    """The split of a data set (default: the validation split) with the classes and keypoints that a predictor needs.

    If the predictor's run held out images from training (`held_out`), those, unless `split` is given or the data set
    does not have them. Without a predictor: with all of its classes, or as one class with `one_class`. The other
    arguments as in `open_dataset`.
    """
    config = None if predictor is None else predictor.config
    opened = partial(
        open_dataset,
        data,
        classes=None if predictor is None else predictor.classes,
        ignore_others=ignore_others,
        keypoints=config is not None and config.keypoint is not None,
        one_class=one_class or (config is not None and config.proposals_only),
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        strict=strict,
        allow_empty=allow_empty,
    )
    if split:
        return opened(split)
    if held_out is None:
        return opened(validation_split(data, annotations))
    known = splits(data, annotations)
    its_split = all(part in known or part.endswith(".txt") for part in held_out.split.split("+"))
    dataset = opened(held_out.split if its_split else validation_split(data, annotations))
    if places := find_held_out(dataset, held_out):
        part = held_out_part(dataset, places)
        note = f"evaluating on the {counted(len(part), 'image')} of {dataset.split} that the run held out from training"
        others = "".join(f"; split={name} (--split) evaluates on {name}" for name in known if name.startswith("val"))
        more = f"; split={dataset.split} (--split) evaluates on all of them{others}"
        return replace(part, notes=(*part.notes, note + more))
    default = validation_split(data, annotations)  # of another data set
    return opened(default) if default != dataset.split else dataset


def held_out_of(source: str | Path) -> HeldOut | None:
    """The images that the run of a checkpoint held out from training; None if it held out none.

    `source` may also be the output folder of an evaluation on such images. Raises ValueError for a damaged record.
    """
    folder = Path(source)
    if is_results(folder):
        file = folder / HELD_OUT_FILE
        value = read_json(file) if file.is_file() else None
    else:
        file, value = folder / CONFIG_FILE, read_checkpoint(source).provenance.get("held_out")
    try:
        return HeldOut.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def trained_on_warning(dataset: Dataset, split: str, held_out: HeldOut | None = None) -> tuple[str, ...]:
    """A warning if the model may have been trained on some of the images that were opened with `split` (empty: none).

    `held_out`: what the run of the model held out from training.
    """
    if dataset.split.endswith(HELD_OUT):
        return ()
    if held_out is not None and not split:
        return (
            f"none of {counted(len(held_out.files), 'image')} that the run held out from training "
            f"{'is' if len(held_out.files) == 1 else 'are'} in {dataset.annotation_file}: if it contains images that "
            "the model was trained on, the metrics say little about other images",
        )
    if held_out is not None:
        return _trained_images(dataset, held_out)
    if split or dataset.split.startswith(("val", "minival", "test")):
        return ()
    return (
        f"{dataset.annotation_file} is the only split: if the model was trained on these images, the metrics say "
        "nothing about other images. Add a validation split to measure that",
    )


def _trained_images(dataset: Dataset, held_out: HeldOut) -> tuple[str, ...]:
    """A warning if `dataset` contains images of the training split of a run that the run did not hold out."""
    parts = {part.partition(":")[0] for part in dataset.split.split("+")}
    kept = {PurePosixPath(name).name for name in held_out.files}
    trained = sum(PurePosixPath(name).name not in kept for name in dataset.file_names)
    if not trained or parts.isdisjoint(held_out.split.split("+")):
        return ()
    return (
        f"if this is the data set of the run, the model was trained on {trained} of the "
        f"{counted(len(dataset), 'image')} of {dataset.split}, so the metrics say little about other images. Leave "
        "split (--split) out to evaluate on the images that the run held out",
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
