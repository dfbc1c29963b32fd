"""Images of a data set beside what a detector finds in them, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from rcnn.data.images import read_image
from rcnn.data.records import Dataset, ImageRecord
from rcnn.drawing.pictures import draw_objects, region_of
from rcnn.drawing.report import Example
from rcnn.evaluation.evaluate import measured_kinds
from rcnn.ops.coco_backend import as_rle, rle_mask
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections


def example_of(predictor: Predictor, record: ImageRecord, score: float) -> tuple[Example, ImageDetections]:
    """What is found in the image of `record`, scored `score` or higher, drawn beside the truth."""
    image = read_image(record.path)
    found = predictor.predict([image])[0].above(score)
    one_class = len(predictor.classes) == 1
    picture = draw_objects(
        image,
        found.boxes,
        found.labels,
        predictor.classes,
        scores=found.scores,
        masks=found.regions(),
        keypoints=found.keypoints,
        skeleton=predictor.skeleton,
        colour_by="instance" if one_class else "class",
    )
    truth = draw_truth(record, image, predictor)
    note = f"{len(found)} objects found, {int((~record.crowd).sum())} true"
    return Example(name=record.path.name, detections=picture, ground_truth=truth, note=note), found


def draw_truth(record: ImageRecord, image: Tensor, predictor: Predictor) -> Image.Image:
    """The true objects of an image (3, H, W), crowds left out, with masks and keypoints if `predictor` finds such."""
    own = np.flatnonzero(~record.crowd)
    regions = None
    if "segm" in measured_kinds(predictor.config):
        regions = []
        for mask in (record.segmentations[i] for i in own):
            rle = mask if isinstance(mask, dict) else as_rle([part.tolist() for part in mask or ()], *image.shape[1:])
            regions.append(region_of(rle_mask(rle)))
    keypoints = None
    if predictor.config.keypoint is not None and record.keypoints is not None:
        keypoints = record.keypoints[own] + np.array([0.5, 0.5, 0], dtype=np.float32)  # a pixel's middle
    return draw_objects(
        image,
        record.boxes[own],
        record.labels[own],
        predictor.classes,
        masks=regions,
        keypoints=keypoints,
        skeleton=predictor.skeleton,
        colour_by="instance" if len(predictor.classes) == 1 else "class",
    )


def chosen_records(dataset: Dataset, count: int, limit: int = 0) -> Sequence[ImageRecord]:
    """`count` images with objects, spread evenly over the first `limit` of the data set (0: all)."""
    objects = np.diff(dataset.objects.starts)[: limit or len(dataset)]
    places = np.flatnonzero(objects)
    if len(places) > count:
        places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return [dataset[place] for place in places.tolist()]
