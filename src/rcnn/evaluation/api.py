"""The public function `rcnn.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rcnn.data import Dataset
from rcnn.data.opening import DatasetOptions
from rcnn.evaluation.evaluate import Evaluation, evaluate_dataset
from rcnn.evaluation.opening import dataset_for, held_out_of, trained_on_warning
from rcnn.evaluation.plan import limit_overrides
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device, Precision
from rcnn.weights.checkpoint import detector_record


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
    options = DatasetOptions(
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        strict=strict,
        allow_empty=allow_empty,
    )
    checkpoint = model if isinstance(model, Predictor) else detector_record(model)
    held_out = None if isinstance(model, Predictor) else held_out_of(model)
    if isinstance(data, Dataset):
        dataset, warnings = data, ()
    else:
        dataset = dataset_for(checkpoint, data, split, held_out=held_out, options=options)
        warnings = trained_on_warning(dataset, split, held_out)
    if isinstance(model, Predictor):
        predictor = model
    else:
        overrides = limit_overrides(checkpoint.config, dataset, max_detections=max_detections, metric=metric)
        predictor = Predictor(model, device=device, precision=precision, overrides=overrides, allow=allow)
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        max_detections=max_detections,
        metric=metric,
    )
    return replace(evaluation, warnings=warnings + evaluation.warnings)
