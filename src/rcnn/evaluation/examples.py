"""Pictures of a data set's images, with detections beside the ground truth, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.data.messages import counted
from rcnn.data.records import Dataset, ImageRecord
from rcnn.drawing.ground_truth import draw_ground_truth
from rcnn.drawing.pictures import draw_objects
from rcnn.drawing.report import Example
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections


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
    ground_truth = draw_ground_truth(
        image,
        record,
        predictor.classes,
        masks=predictor.config.has_masks,
        keypoints=predictor.config.keypoint is not None,
        skeleton=predictor.skeleton,
    )
    note = f"{counted(len(found), 'detection')}, {counted(int((~record.ignored).sum()), 'object')}"
    return Example(name=record.path.name, detections=picture, ground_truth=ground_truth, note=note), found


def chosen_records(dataset: Dataset, count: int, limit: int = 0) -> Sequence[ImageRecord]:
    """Up to `count` images with objects, spread evenly over the first `limit` of the data set (0 = all)."""
    objects = np.diff(dataset.objects.starts)[: limit or len(dataset)]
    places = np.flatnonzero(objects)
    if len(places) > count:
        places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return [dataset[place] for place in places.tolist()]
