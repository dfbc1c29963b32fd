"""A data set predicted on and measured: images -> Predictor -> COCO results -> COCO's metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.skeletons import require_names
from rcnn.data.targets import require_size
from rcnn.metrics.coco import Metrics, evaluate
from rcnn.models.config import DetectorConfig
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, and the detections that it was measured on."""

    metrics: Metrics
    results: list[
        dict[str, Any]
    ]  # COCO's format: image_id, category_id, score, bbox (x, y, width, height), segmentation, keypoints


def evaluate_dataset(
    predictor: Predictor,
    dataset: Dataset,
    *,
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    advance: Callable[[], None] | None = None,
) -> Evaluation:
    """Predict on the images of `dataset` (the first `limit`; 0: all) and measure; `advance` is called once an image.

    Raises ValueError where the classes differ from the predictor's, or an image's size from its annotation.
    """
    if tuple(dataset.classes) != predictor.classes:
        raise ValueError(
            f"the data set's classes are {_few(dataset.classes)}, the checkpoint's {_few(predictor.classes)}: "
            "open the data set with the checkpoint's classes"
        )
    if predictor.config.keypoint is not None:
        require_names(dataset, predictor.config.keypoint.names)
    records = [dataset[i] for i in range(min(limit or len(dataset), len(dataset)))]
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        encoded: deque[Future[list[dict[str, Any]]]] = deque()
        prepared = _prepared(predictor, records, pool, ahead=batch_size + max(1, workers))
        while batch := list(islice(prepared, batch_size)):
            found = predictor.detect([image for _, image, _ in batch], [frame for _, _, frame in batch])
            for (record, _, _), detections in zip(batch, found, strict=True):
                encoded.append(pool.submit(detections.to_coco, record.image_id, dataset.category_ids))
                if advance is not None:
                    advance()
            while len(encoded) > batch_size:
                results += encoded.popleft().result()
        while encoded:
            results += encoded.popleft().result()
    sigmas = None if predictor.config.keypoint is None else predictor.config.keypoint.sigmas
    metrics = evaluate(
        dataset.to_coco(),
        results,
        measured_kinds(predictor.config),
        image_ids=[record.image_id for record in records],
        keypoint_sigmas=sigmas,
    )
    return Evaluation(metrics=metrics, results=results)


def measured_kinds(config: DetectorConfig) -> tuple[str, ...]:
    """What of the detections of such a detector COCO's metrics measure."""
    parts = (
        ("segm", config.has_masks),
        ("keypoints", config.keypoint is not None),
        ("proposals", config.proposals_only),
    )
    return ("bbox", *(kind for kind, there in parts if there))


def _prepared(
    predictor: Predictor, records: Sequence[ImageRecord], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[ImageRecord, Tensor, Frame]]:
    """The images in order, read by threads, `ahead` of them before they are asked for."""
    waiting: deque[tuple[ImageRecord, Future[tuple[Tensor, Frame]]]] = deque()
    for record in records:
        waiting.append((record, pool.submit(predictor.prepare, record.path)))
        if len(waiting) > ahead:
            yield _checked(*waiting.popleft())
    while waiting:
        yield _checked(*waiting.popleft())


def _checked(record: ImageRecord, work: Future[tuple[Tensor, Frame]]) -> tuple[ImageRecord, Tensor, Frame]:
    image, frame = work.result()
    require_size(record, frame.original)
    return record, image, frame


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
