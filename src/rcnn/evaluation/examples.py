"""Pictures of a data set's images, with detections beside the ground truth, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from rcnn.data.messages import counted
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.segmentations import Segmentation
from rcnn.drawing.pictures import draw_objects, region_of
from rcnn.drawing.report import Example
from rcnn.ops.coco_backend import as_rle, rle_mask
from rcnn.ops.masks import Region
from rcnn.predictor import Predictor
from rcnn.results import HALF_PIXEL, ImageDetections


def example_of(predictor: Predictor, record: ImageRecord, score: float) -> tuple[Example, ImageDetections]:
    """The detections in the image of `record` with a score of at least `score`, drawn beside the ground truth."""
    image = record.read()
    found = predictor.predict(image, score=score)
    picture = draw_objects(
        image,
        found.boxes,
        found.labels,
        predictor.classes,
        scores=found.scores,
        masks=found.regions(),
        keypoints=found.keypoints,
        skeleton=predictor.skeleton,
        colour_by="instance" if len(predictor.classes) == 1 else "class",
    )
    ground_truth = draw_ground_truth(record, image, predictor)
    note = f"{counted(len(found), 'detection')}, {counted(int((~record.crowd).sum()), 'object')}"
    return Example(name=record.path.name, detections=picture, ground_truth=ground_truth, note=note), found


def draw_ground_truth(record: ImageRecord, image: Tensor, predictor: Predictor) -> Image.Image:
    """The objects of an image (3, H, W), without crowds: boxes, and the masks and keypoints that the model predicts.

    An object with referring expressions has the first one as its text, instead of the name of its class.
    """
    own = np.flatnonzero(~record.crowd)
    keypoints = None
    if predictor.config.keypoint is not None and record.keypoints is not None:
        keypoints = record.keypoints[own] + HALF_PIXEL
    masks = None
    if predictor.config.has_masks:
        masks = [_region(record.segmentations[i], (record.height, record.width)) for i in own.tolist()]
    return draw_objects(
        image,
        record.boxes[own],
        record.labels[own],
        predictor.classes,
        captions=None if record.expressions is None else [_caption(record.expressions[i]) for i in own.tolist()],
        masks=masks,
        keypoints=keypoints,
        skeleton=predictor.skeleton,
        colour_by="instance" if len(predictor.classes) == 1 else "class",
    )


def chosen_records(dataset: Dataset, count: int, limit: int = 0) -> Sequence[ImageRecord]:
    """Up to `count` images with objects, spread evenly over the first `limit` of the data set (0 = all)."""
    objects = np.diff(dataset.objects.starts)[: limit or len(dataset)]
    places = np.flatnonzero(objects)
    if len(places) > count:
        places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return [dataset[place] for place in places.tolist()]


def _caption(expressions: Sequence[str]) -> str:
    return expressions[0] if expressions else ""


def _region(segmentation: Segmentation, size: tuple[int, int]) -> Region | None:
    """The mask of an object in an image of `size` (height, width); None if it has no outline, only a box."""
    if not segmentation:
        return None
    outline = segmentation if isinstance(segmentation, dict) else [part.tolist() for part in segmentation]
    return region_of(rle_mask(as_rle(outline, *size)))
