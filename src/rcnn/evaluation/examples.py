"""Pictures of a data set's images, with detections beside the ground truth, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from rcnn.data.messages import counted
from rcnn.data.records import Dataset, ImageRecord
from rcnn.drawing.ground_truth import draw_ground_truth
from rcnn.drawing.pictures import draw_objects
from rcnn.drawing.report import Example
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections


def draw_example(predictor: Predictor, record: ImageRecord, image: Tensor, found: ImageDetections) -> Example:
    """The detections that `predictor` found in the image (3, H, W) of `record`, drawn beside the ground truth."""
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


def chosen_records(dataset: Dataset, count: int, limit: int = 0) -> Sequence[ImageRecord]:
    """Up to `count` images with objects, spread evenly over the first `limit` of the data set (0 = all)."""
    objects = np.diff(dataset.objects.starts)[: limit or len(dataset)]
    indices = np.flatnonzero(objects)
    if len(indices) > count:
        indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return [dataset[index] for index in indices.tolist()]
