"""The public function `rcnn.evaluate`, and the data set that fits a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rcnn.data import Dataset, open_dataset, splits
from rcnn.evaluation.evaluate import Evaluation, evaluate_dataset
from rcnn.evaluation.run import settings_for
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device, Precision


def evaluate(
    model: Predictor | str | Path,
    data: Dataset | str | Path,
    *,
    split: str = "",
    annotations: str = "",
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

    `split` defaults to the validation split, see `validation_split`. `annotations`: the annotation file within the
    folder, e.g. "labels/{split}.json"; default: found by its name. `limit`: only the first images; 0: all.
    `max_detections`: detections per image and class that count; default: COCO's 100 (keypoints
    20, proposals 1000), LVIS' 300 per image. `metric`: "coco", "voc2007", "voc2012" or "lvis"; default: that of the
    data set's format.
    `strict` and `allow_empty` as in `open_dataset`.
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
        else dataset_for(predictor, data, split, annotations=annotations, strict=strict, allow_empty=allow_empty)
    )
    more = settings_for(predictor, dataset, max_detections=max_detections, metric=metric)
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
    annotations: str = "",
    one_class: bool = False,
    ignore_others: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
) -> Dataset:
    """The split of a data set (default: the validation split) with the classes and keypoints that a predictor needs.

    Without a predictor: with all of its classes, or as one class with `one_class`. The other arguments as in
    `open_dataset`.
    """
    config = None if predictor is None else predictor.config
    return open_dataset(
        Path(data),
        split or validation_split(data, annotations),
        classes=None if predictor is None else predictor.classes,
        ignore_others=ignore_others,
        keypoints=config is not None and config.keypoint is not None,
        one_class=one_class or (config is not None and config.proposals_only),
        annotations=annotations,
        strict=strict,
        allow_empty=allow_empty,
    )


def split_warning(dataset: Dataset, split: str) -> tuple[str, ...]:
    """A warning if `split` was not given and the only one has the name of a training split."""
    if split or not dataset.split.startswith("train"):
        return ()
    return (
        f"{dataset.annotation_file} is the only split: if the model was trained on these images, the metrics say "
        "nothing about other images. Add a validation split to measure that",
    )


def validation_split(data: str | Path, annotations: str = "") -> str:
    """The split of a data set to evaluate on: the first with a name that starts with "val", or the only one.

    Raises ValueError, with the names of all splits, if there is none.
    """
    known = splits(Path(data), annotations)
    named = [name for name in known if name.startswith("val")]
    if not named and len(known) != 1:
        raise ValueError(
            f"{data} has the splits {', '.join(known)}; none starts with 'val'. Choose one with split (--split)"
        )
    return (named or known)[0]
