"""Evaluate a predictor on a data set: images -> detections -> results in COCO's format -> metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rcnn.background import DaemonThreads
from rcnn.data.images import MAX_PIXELS
from rcnn.data.messages import counted, few, named_images
from rcnn.data.read_ahead import read_ahead
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.targets import require_size
from rcnn.evaluation.plan import Plan, limit_warnings, measured_kinds, plan_evaluation
from rcnn.metrics.choice import measure
from rcnn.metrics.inputs import GroundTruth
from rcnn.metrics.tables import metrics_table, per_class_table
from rcnn.metrics.thresholds import Thresholds
from rcnn.metrics.values import Metrics
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame, WholeImage
from rcnn.results import ImageDetections
from rcnn.runtime.processes import ALONE, Processes

Detect = Callable[[Tensor], ImageDetections]
Prepared = tuple[Tensor, Frame]  # what Predictor.prepare returns
# COCO's format: image_id, category_id, score, bbox (x, y, width, height), segmentation, keypoints
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImageResults:
    """One evaluated image: its results, or the error."""

    record: ImageRecord
    results: tuple[Result, ...] = ()
    error: str = ""
    detections: ImageDetections | None = None  # of `results`; kept only until the next image


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation: metrics, and the detections that they were computed from."""

    metrics: Metrics
    results: list[Result] = field(repr=False)
    ground_truth: GroundTruth = field(repr=False)  # in COCO's form, as it was checked
    failed: tuple[ImageResults, ...] = ()  # images that could not be read: they count as images without detections
    limit: int = 0  # only this number of images, the first ones, were evaluated; 0: all
    split: str = ""  # of the data set; the name of a file that was opened, without its folder
    warnings: tuple[str, ...] = ()
    report: Path | None = None  # report.html, if an output folder was given ...
    thresholds: Thresholds | None = None  # ... and the score thresholds with the best F1; None for proposals

    def __str__(self) -> str:
        """The tables that `rcnn eval` prints."""
        return metrics_table(self.metrics)

    def per_class(self) -> str:
        """One line per class: name, AP, AP50, AP75, small, medium, large, AR."""
        return per_class_table(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics.json; nothing in it depends on the time or the computer."""
        content = self.metrics.to_dict()
        counts = {**content["counts"], "failed": len(self.failed)}
        return content | {"counts": counts, "limit": self.limit, "split": self.split}


def evaluate_dataset(
    predictor: Predictor,
    dataset: Dataset,
    *,
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    max_detections: int | None = None,
    metric: str = "",
    on_image: Callable[[ImageResults], object] | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Predict on the first `limit` images of `dataset` (0 = all), and compute the metrics that model and data allow.

    `on_image` is called for each image in order. An image that cannot be read, or that has not the annotated size,
    counts as an image without detections. `max_detections` as in metrics.coco.evaluate; `metric` is one of
    metrics.choice.METRICS, and defaults to that of the data set's format.

    The `processes` share the images. All of them get the metrics; only the first one calls `on_image` and returns
    results and failures.

    Raises ValueError if the classes of the data set are not those of the predictor, or if no image can be read.
    """
    if tuple(dataset.classes) != predictor.classes:
        raise ValueError(
            f"the data set has the classes {few(dataset.classes)}, but the model has {few(predictor.classes)}; open "
            "the data set with the classes of the model, in their order: open_dataset(..., classes=[...]) or "
            "Dataset.from_records(..., classes=[...])"
        )
    plan = plan_for(predictor, dataset, limit=limit, max_detections=max_detections, metric=metric)
    keypoint = predictor.config.keypoint
    ground_truth = dataset.to_coco()
    measurement = measure(
        plan.metric,
        ground_truth,
        plan.kinds,
        image_ids=dataset.image_ids[: limit or len(dataset)],
        keypoint_sigmas=None if keypoint is None else keypoint.sigmas,
        max_detections=max_detections,
    )

    def measure_image(image: ImageResults) -> None:
        checked = image.detections is not None and _are_sound(image.detections)
        measurement.add([image.record.image_id], image.results, checked=checked)
        if on_image is not None:
            on_image(image)

    images = predict_dataset(
        predictor,
        dataset,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        on_image=measure_image,
        processes=processes,
    )
    failed = tuple(image for image in images if image.error)
    if images and len(failed) == len(images):
        raise ValueError(f"none of {counted(len(images), 'image')} could be evaluated; the first: {failed[0].error}")
    results = [result for image in images for result in image.results]
    processes.rest("the computation of the metrics")
    metrics = processes.from_first(measurement.metrics)
    warnings = plan.warnings + failure_warnings(failed, len(images))
    return Evaluation(
        metrics=metrics,
        results=results,
        ground_truth=ground_truth,
        failed=failed,
        limit=limit,
        split=Path(dataset.split).name,
        warnings=warnings,
    )


def _are_sound(found: ImageDetections) -> bool:
    """Whether all numbers are finite and no box has a negative side; results made of them have valid fields."""
    numbers = [found.boxes, found.scores, *([] if found.keypoints is None else [found.keypoints])]
    is_finite = all(bool(np.isfinite(values).all()) for values in numbers)
    return is_finite and bool((found.boxes[:, 2:] >= found.boxes[:, :2]).all())


def plan_for(
    predictor: Predictor, dataset: Dataset, *, limit: int = 0, max_detections: int | None = None, metric: str = ""
) -> Plan:
    """What an evaluation of `predictor` on `dataset` measures."""
    keypoint = predictor.config.keypoint
    plan = plan_evaluation(
        measured_kinds(predictor.config),
        dataset,
        limit=limit,
        max_detections=max_detections,
        keypoint_names=() if keypoint is None else keypoint.names,
        metric=metric,
    )
    limits = limit_warnings(predictor.config, dataset, max_detections=max_detections, metric=metric)
    return replace(plan, warnings=plan.warnings + limits)


def failure_warnings(failed: Sequence[ImageResults], count: int) -> tuple[str, ...]:
    """A warning with the number of images that failed, if there are any."""
    if not failed:
        return ()
    return (
        f"{len(failed)} of {counted(count, 'image')} could not be evaluated and "
        f"{'counts' if len(failed) == 1 else 'count'} as having no detections",
    )


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset,
    *,
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    detect: Detect | None = None,
    max_pixels: int = MAX_PIXELS,
    on_image: Callable[[ImageResults], object] | None = None,
    processes: Processes = ALONE,
) -> list[ImageResults]:
    """The results of the first `limit` images of `dataset` (0 = all), in order.

    `detect` returns the detections of an image (3, H, W) uint8 RGB in place of the predictor, e.g. in tiles.
    `max_pixels`: refuse larger images; 0: no limit. `on_image` is called for each image, with its detections (None with
    several processes). The `processes` share the images; the first one gets all results, the others none.
    """
    count = min(limit, len(dataset)) if limit else len(dataset)
    records = [dataset[i] for i in range(count)]
    read = partial(_read, predictor.prepare if detect is None else WholeImage(), max_pixels)
    stages = Stages(read=read, detect=predictor.detect if detect is None else partial(_detect_each, detect))
    predict = _predict_records if processes.count == 1 else _predict_together
    found = predict(stages, dataset, records, batch_size, workers, processes)
    images: list[ImageResults] = []
    for image in found:
        if on_image is not None:
            on_image(image)
        images.append(replace(image, detections=None))
    processes.rest()
    return images


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The two stages of the prediction on images."""

    read: Callable[[ImageRecord], Prepared | str]  # the image of a record, or why it cannot be used
    detect: Callable[[Sequence[Tensor], Sequence[Frame]], Iterable[ImageDetections]]  # of prepared images


def _detect_each(detect: Detect, images: Sequence[Tensor], _: Sequence[Frame]) -> Iterator[ImageDetections]:
    return map(detect, images)


def _predict_together(
    stages: Stages,
    dataset: Dataset,
    records: Sequence[ImageRecord],
    batch_size: int,
    workers: int,
    processes: Processes,
) -> Iterator[ImageResults]:
    """The results of all images in order, on the first process, without detections.

    Whole batches are distributed, so that every batch has the same images for any number of processes.
    """
    own = [records[place] for place in processes.own_places(len(records), batch_size)]
    predicted = _predict_records(stages, dataset, own, batch_size, workers, processes)
    sent = ((image.results, image.error) for image in predicted)
    received = processes.in_order(sent, len(records), batch_size)
    for record, (results, error) in zip(records, received, strict=processes.is_first):
        yield ImageResults(record=record, results=results, error=error)


def _predict_records(
    stages: Stages,
    dataset: Dataset,
    records: Sequence[ImageRecord],
    batch_size: int,
    workers: int,
    processes: Processes,
) -> Iterator[ImageResults]:
    """The results of all images in order; threads read images and encode masks while the model works."""
    with DaemonThreads(max(1, workers)) as pool:
        encoding: deque[ImageResults | Future[ImageResults]] = deque()
        prepared = read_ahead(records, partial(pool.submit, stages.read), batch_size + max(1, workers))
        while started := list(islice(prepared, batch_size)):
            processes.doing(f"the prediction on {named_images(record.image_id for record, _ in started)}")
            group = [(record, future.result()) for record, future in started]
            readable = [image for _, image in group if not isinstance(image, str)]
            images, frames = [image for image, _ in readable], [frame for _, frame in readable]
            detections = iter(stages.detect(images, frames) if readable else ())
            for record, image in group:
                if isinstance(image, str):
                    encoding.append(ImageResults(record=record, error=image))
                else:
                    encoding.append(pool.submit(_encoded, record, next(detections), dataset.category_ids))
            while len(encoding) > batch_size:
                yield _finished(encoding.popleft())
        while encoding:
            yield _finished(encoding.popleft())


def _finished(image: ImageResults | Future[ImageResults]) -> ImageResults:
    return image if isinstance(image, ImageResults) else image.result()


def _encoded(record: ImageRecord, found: ImageDetections, category_ids: Sequence[int | str]) -> ImageResults:
    results = tuple(found.to_coco(record.image_id, category_ids))
    return ImageResults(record=record, results=results, detections=found)


def _read(prepare: Callable[[Tensor], Prepared], max_pixels: int, record: ImageRecord) -> Prepared | str:
    """The image of a record, prepared for the model, or the reason why it cannot be used."""
    try:
        image, frame = prepare(record.read(max_pixels=max_pixels))
        require_size(record, frame.original)
    except (ValueError, OSError, MemoryError) as error:
        return str(error) or f"{record.path}: {type(error).__name__}"
    return image, frame
