"""Pictures of a data set's images, with detections beside the ground truth, for reports."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from rcnn.background import DaemonThreads
from rcnn.data.messages import counted
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.skeletons import HALF_PIXEL
from rcnn.data.targets import require_size
from rcnn.drawing.analysis import ERRORS
from rcnn.drawing.ground_truth import draw_ground_truth, pasted_outline
from rcnn.drawing.pictures import draw_objects
from rcnn.drawing.report import Example
from rcnn.evaluation.evaluate import Result
from rcnn.metrics.analysis import Analysis
from rcnn.metrics.errors import ImageErrors
from rcnn.metrics.inputs import Id
from rcnn.ops.masks import PastedMask
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections

Log = Callable[[str], object]
Item = TypeVar("Item")
DRAWING = 2  # threads that read and draw images


def draw_example(predictor: Predictor, record: ImageRecord, image: Tensor, found: ImageDetections) -> Example:
    """The detections that `predictor` found in the image (3, H, W) of `record`, drawn beside the ground truth."""
    picture = draw_objects(
        image,
        found.boxes,
        found.labels,
        predictor.classes,
        scores=found.scores,
        masks=found.pasted_masks(),
        keypoints=found.keypoints,
        skeleton=predictor.skeleton,
        colour_by="instance" if len(predictor.classes) == 1 else "class",
    )
    ground_truth = draw_ground_truth(
        image,
        record,
        predictor.classes,
        masks=predictor.config.has_masks,
        keypoints=predictor.config.keypoint is not None,
        skeleton=predictor.skeleton,
    )
    note = f"{counted(len(found), 'detection')}, {counted(int((~record.ignored).sum()), 'object')}"
    return Example(name=record.path.name, detections=picture, ground_truth=ground_truth, note=note)


def draw_worst(
    dataset: Dataset,
    analysis: Analysis,
    count: int,
    *,
    skeleton: Sequence[tuple[int, int]],
    failed: Container[Id],
    log: Log,
) -> list[Example]:
    """Up to `count` images with the most errors: the ground truth beside the detections at the analysis' threshold.

    Wrong detections are labelled with their error. Images without objects and detections, and images with an id in
    `failed`, are not drawn. `log` receives a warning for each image that cannot be read.
    """
    places = {image_id: place for place, image_id in enumerate(dataset.image_ids)}
    drawn = [
        image
        for image in analysis.images
        if image.image_id not in failed and (image.detections or len(dataset[places[image.image_id]].boxes))
    ]

    def draw(image: ImageErrors) -> Example | str:
        record = dataset[places[image.image_id]]
        pixels = _read(record)
        return pixels if isinstance(pixels, str) else _draw_judged(pixels, record, image, dataset, analysis, skeleton)

    return _drawn(draw, drawn[: 2 * count], count, log)  # some may be unreadable


def _drawn(draw: Callable[[Item], Example | str], items: Iterable[Item], count: int, log: Log) -> list[Example]:
    """Up to `count` examples in the order of `items`, drawn by several threads.

    `draw` returns a text for an item that cannot be drawn; `log` receives it, and a later item is drawn instead.
    """
    examples: list[Example] = []
    left = iter(items)
    with DaemonThreads(DRAWING) as pool:
        while started := list(islice(left, count - len(examples))):
            for found in pool.map(draw, started):
                if isinstance(found, str):
                    log(found)
                else:
                    examples.append(found)
    return examples


def _read(record: ImageRecord) -> Tensor | str:
    """The pixels of an image, or a warning if it cannot be read or has another size."""
    try:
        pixels = record.read()
        require_size(record, (pixels.shape[1], pixels.shape[2]))
    except (ValueError, OSError) as error:
        return f"warning: no picture of {record.path}: {error}"
    return pixels


def _draw_judged(
    pixels: Tensor,
    record: ImageRecord,
    image: ImageErrors,
    dataset: Dataset,
    analysis: Analysis,
    skeleton: Sequence[tuple[int, int]],
) -> Example:
    """One image with its errors; the ground truth has masks and keypoints if these are measured."""
    found = [detection.result for detection in image.detections]
    captions = [
        f"{detection.class_name}: {ERRORS[detection.error][0]}" if detection.error else ""
        for detection in image.detections
    ]
    picture = _draw_results(pixels, record, found, dataset, skeleton, captions)
    ground_truth = draw_ground_truth(
        pixels,
        record,
        dataset.classes,
        masks=analysis.kind == "segm",
        keypoints=analysis.keypoint_curves is not None,
        skeleton=skeleton,
    )
    return Example(
        name=record.path.name,
        detections=picture,
        ground_truth=ground_truth,
        note=f"{counted(len(found), 'detection')}, {counted(int((~record.ignored).sum()), 'object')}",
        errors=tuple((error.kind, error.class_name) for error in image.errors),
    )


def draw_spread(
    dataset: Dataset,
    results: Sequence[Result],
    count: int,
    limit: int,
    score: float,
    *,
    skeleton: Sequence[tuple[int, int]],
    proposals: bool,
    failed: Container[Id],
    log: Log,
) -> list[Example]:
    """Without an analysis: pictures of images spread evenly over the data set, with the results of `score` or more.

    `proposals`: whether they are those of an RPN, which have no classes; otherwise they are keypoints without boxes.
    `failed` and `log` as in `draw_worst`.
    """
    noun = "proposal" if proposals else "detection"
    found: dict[Id, list[Result]] = {}
    for result in results:
        if result["score"] >= score:
            found.setdefault(result["image_id"], []).append(result)

    def draw(record: ImageRecord) -> Example | str:
        pixels = _read(record)
        if isinstance(pixels, str):
            return pixels
        own = found.get(record.image_id, [])
        return Example(
            name=record.path.name,
            detections=_draw_results(
                pixels, record, own, dataset, skeleton, ["object" if proposals else ""] * len(own)
            ),
            ground_truth=draw_ground_truth(
                pixels, record, dataset.classes, masks=False, keypoints=not proposals, skeleton=skeleton
            ),
            note=f"{counted(len(own), noun)}, {counted(int((~record.ignored).sum()), 'object')}",
        )

    chosen = [record for record in chosen_records(dataset, count, limit) if record.image_id not in failed]
    return _drawn(draw, chosen, count, log)


def _draw_results(
    pixels: Tensor,
    record: ImageRecord,
    results: Sequence[Result],
    dataset: Dataset,
    skeleton: Sequence[tuple[int, int]],
    captions: Sequence[str],
) -> Image.Image:
    """The image with results in COCO's format. An empty caption is replaced by the class name."""
    labels = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
    size = (record.height, record.width)
    masks = [_pasted_mask(result, size) for result in results]
    return draw_objects(
        pixels,
        [_corners(result, pasted) for result, pasted in zip(results, masks, strict=True)],
        [labels.get(result["category_id"], 0) for result in results],
        dataset.classes,
        scores=[result["score"] for result in results],
        captions=captions,
        masks=masks,
        keypoints=_keypoints(results),
        skeleton=skeleton,
        colour_by="instance" if len(dataset.classes) == 1 else "class",
    )


def _pasted_mask(result: Result, size: tuple[int, int]) -> PastedMask | None:
    """The mask of a result in an image of `size` (height, width).

    None: no mask, or a damaged one, which is refused only where masks are measured.
    """
    try:
        return pasted_outline(result.get("segmentation"), size)
    except ValueError:
        return None


def _keypoints(results: Sequence[Result]) -> npt.NDArray[np.float64] | None:
    """The keypoints (D, J, 3) of the results, zeros for those without; None if there are none, or J differs."""
    counts = {len(result["keypoints"]) for result in results if result.get("keypoints")}
    if len(counts) != 1:
        return None
    [count] = counts
    values = [result.get("keypoints") or [0.0] * count for result in results]
    return np.array(values, dtype=np.float64).reshape(len(results), -1, 3) + HALF_PIXEL


def _corners(result: Result, pasted: PastedMask | None) -> list[float]:
    """The box xyxy of a result in COCO's format; without one, the box around its mask, or else its keypoints.

    `pasted` is the mask; None: no mask, or one without a pixel.
    """
    if result.get("bbox") is not None:
        x, y, width, height = result["bbox"]
        return [x, y, x + width, y + height]
    if pasted is not None:
        return [pasted.x0, pasted.y0, pasted.x0 + pasted.mask.shape[1], pasted.y0 + pasted.mask.shape[0]]
    points = (np.array(result.get("keypoints") or ()).reshape(-1, 3) + HALF_PIXEL)[:, :2]
    return [*points.min(axis=0), *points.max(axis=0)] if len(points) else [0.0] * 4


def chosen_records(dataset: Dataset, count: int, limit: int = 0) -> Sequence[ImageRecord]:
    """Up to `count` images with objects, spread evenly over the first `limit` of the data set (0 = all)."""
    objects = np.diff(dataset.objects.starts)[: limit or len(dataset)]
    indices = np.flatnonzero(objects)
    if len(indices) > count:
        indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return [dataset[index] for index in indices.tolist()]
