"""Whether bfloat16 detects the same as float32: D2Go's trained weights on all images of a data set, of all its splits.

A network with random weights cannot show this: its scores are so close that the last bit decides what it detects. Few
images cannot either: on the 106 of coco449's val2017 AP differs by .0029, on all 449 by .0013.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from rcnn import Predictor, convert
from rcnn.data import splits
from rcnn.evaluation.evaluate import ImageResults, evaluate_dataset
from rcnn.evaluation.opening import dataset_for
from rcnn.results import ImageDetections

SCORE = 0.5  # detections with a lower score in float32 are not matched
IOU = 0.5  # least IoU of a match, which has the same label
AP_DIFFERENCE = 0.003  # largest difference of an AP
MATCHED = 0.97  # least part of the detections that have a match
BOX_PIXELS, SCORE_DIFFERENCE = 1.0, 0.01  # largest medians over the matches


@dataclass(frozen=True)
class Evaluated:
    """The detections of one precision, and their AP by kind ("bbox", "segm", "keypoints")."""

    ap: dict[str, float]
    images: list[ImageDetections]


def trained_weights(data: Path, model: str) -> Path:
    """D2Go's file of the `model` ("mask", "keypoint"), in weights/d2go of the folder that also has data/NAME."""
    name = f"{model}_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"
    return data.resolve().parents[1] / "weights" / "d2go" / name


def compare_precisions(weights: Path, data: Path) -> dict[str, Any]:
    """AP of both precisions and distances between their detections; "agree" says whether they are small enough."""
    split = "+".join(splits(data))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = convert(weights, Path(folder) / "model")
        float32 = _evaluate(Predictor(checkpoint, device="cpu"), data, split)
        bfloat16 = _evaluate(Predictor(checkpoint, device="cpu", precision="bfloat16"), data, split)
    matches = [_match(a, b) for a, b in zip(float32.images, bfloat16.images, strict=True)]
    boxes, scores = (np.concatenate([one[place] for one in matches]) for place in (0, 1))
    count = sum(len(image.above(SCORE)) for image in float32.images)
    difference = max(abs(bfloat16.ap[kind] - ap) for kind, ap in float32.ap.items())
    values: dict[str, Any] = {
        "images": len(float32.images),
        "ap_float32": float32.ap,
        "ap_bfloat16": bfloat16.ap,
        "largest_ap_difference": difference,
        "detections": count,
        "matched": len(boxes),
        "box_px_median": float(np.median(boxes)),
        "score_median": float(np.median(scores)),
    }
    near = values["box_px_median"] <= BOX_PIXELS and values["score_median"] <= SCORE_DIFFERENCE
    return values | {"agree": difference <= AP_DIFFERENCE and len(boxes) >= MATCHED * count and near}


def _evaluate(predictor: Predictor, data: Path, split: str) -> Evaluated:
    images: list[ImageDetections] = []

    def keep(image: ImageResults) -> None:
        if image.detections is None:
            raise ValueError(image.error)
        images.append(image.detections)

    dataset = dataset_for(predictor, data, split)
    metrics = evaluate_dataset(predictor, dataset, on_image=keep).metrics
    return Evaluated({kind: float(values["AP"] or 0) for kind, values in metrics.kinds.items()}, images)


def _match(expected: ImageDetections, found: ImageDetections) -> tuple[np.ndarray, np.ndarray]:
    """Distances of boxes (pixels) and of scores between detections of `expected` above SCORE and their matches."""
    expected = expected.above(SCORE)
    if not len(expected) or not len(found):
        return np.zeros(0), np.zeros(0)
    iou = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(found.boxes)).numpy()
    iou[expected.labels[:, None] != found.labels] = 0
    best = iou.argmax(1)
    matched = iou.max(1) >= IOU
    boxes = np.abs(expected.boxes - found.boxes[best]).max(1)
    return boxes[matched], np.abs(expected.scores - found.scores[best])[matched]
