"""The public function `rcnn.evaluate`, and the data set that fits a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rcnn.data import Dataset, open_dataset, splits
from rcnn.data.defaults import default_validation_split
from rcnn.data.held_out import HELD_OUT, HELD_OUT_FILE, HeldOut, held_out_part, places_of
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

    `split` (as in `open_dataset`) defaults to the validation split, or, where there is none, to the images that the run
    of the checkpoint held out from training. `annotations`: the annotation file within the folder, e.g.
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
    dataset = (
        data
        if isinstance(data, Dataset)
        else dataset_for(
            predictor,
            data,
            split,
            held_out=None if isinstance(model, Predictor) else held_out_of(model),
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
    chosen = () if isinstance(data, Dataset) else split_warning(dataset, split)
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

    Where there is no validation split, the images that the predictor's run held out from training, if it did
    (`held_out`). Without a predictor: with all of its classes, or as one class with `one_class`. The other arguments as
    in `open_dataset`.
    """
    config = None if predictor is None else predictor.config
    if held_out is not None and (split or not _has_split_of(held_out, splits(data, annotations))):
        held_out = None
    dataset = open_dataset(
        data,
        split or (validation_split(data, annotations) if held_out is None else held_out.split),
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
    if held_out is None or not set(held_out.files) & set(dataset.file_names):
        return dataset  # all images of another data set
    part = held_out_part(dataset, places_of(dataset, held_out.files))
    note = f"evaluating on the {counted(len(part), 'image')} of {dataset.split} that the run held out from training"
    return replace(part, notes=(*part.notes, f"{note}; split={dataset.split} (--split) evaluates on all of them"))


def _has_split_of(held_out: HeldOut, known: Sequence[str]) -> bool:
    """Whether a data set has the split that images were held out from, and no validation split."""
    parts = held_out.split.split("+")
    return not default_validation_split(known) and all(part in known or part.endswith(".txt") for part in parts)


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


def split_warning(dataset: Dataset, split: str) -> tuple[str, ...]:
    """A warning if `split` was not given and the only one has the name of a training split."""
    if split or not dataset.split.startswith("train") or dataset.split.endswith(HELD_OUT):
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
