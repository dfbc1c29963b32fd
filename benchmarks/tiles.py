"""Objects of a mosaic of photos that a model finds with and without tiles.

    python benchmarks/tiles.py CHECKPOINT --data coco449 --split val2017

Twelve photos, cut to 640 x 480, make an image of 2560 x 1440 pixels. An object counts as found if a detection of its
class has a box IoU of at least .5; detections are those with a score of at least .5.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import torch

import rcnn
from rcnn.ops.boxes import box_iou

ROWS, COLUMNS, HEIGHT, WIDTH = 3, 4, 480, 640


def mosaic(dataset: rcnn.Dataset) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """An image of the first photos, and the boxes (G, 4) xyxy and labels (G,) of their objects."""
    image = np.zeros((ROWS * HEIGHT, COLUMNS * WIDTH, 3), np.uint8)
    boxes, labels = list[npt.NDArray[np.float64]](), list[npt.NDArray[np.integer]]()
    for place in range(ROWS * COLUMNS):
        record = dataset[place]
        corner = np.array([place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT])
        photo = record.read().permute(1, 2, 0).numpy()[:HEIGHT, :WIDTH]
        image[corner[1] : corner[1] + photo.shape[0], corner[0] : corner[0] + photo.shape[1]] = photo
        inside = np.minimum(record.boxes, [WIDTH, HEIGHT] * 2)
        shown = ~record.ignored & (inside[:, 2:] > inside[:, :2]).all(axis=1)
        boxes.append(inside[shown] + np.tile(corner, 2))
        labels.append(record.labels[shown])
    return image, np.concatenate(boxes).astype(np.float32), np.concatenate(labels).astype(np.int64)


def found(result: rcnn.ImageDetections, boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> int:
    """The number of objects that a detection matches; each detection matches one object, the best first."""
    overlaps = box_iou(torch.from_numpy(result.boxes), torch.from_numpy(boxes)).numpy()  # (D, G)
    overlaps[result.labels[:, None] != labels] = 0
    for row in range(len(result)):
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= 0.5:
            overlaps[row + 1 :, best] = 0
            overlaps[row] = 1
        else:
            overlaps[row] = 0
    return int(overlaps.any(axis=1).sum())


def main() -> None:
    """Print a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="", help="split of the data set")
    arguments = parser.parse_args()
    predictor = rcnn.Predictor(arguments.checkpoint)
    image, boxes, labels = mosaic(rcnn.open_dataset(arguments.data, arguments.split, predictor.classes))
    for tile, overlap in ((0, 0.0), (1024, 0.25), (640, 0.25), (320, 0.5)):
        start = time.perf_counter()
        if tile:
            result = rcnn.predict_tiled(predictor, image, tile=tile, overlap=overlap, score=0.5)
        else:
            result = predictor.predict(image, score=0.5)
        seconds = time.perf_counter() - start
        name = f"tiles of {tile}, overlap {overlap}" if tile else "whole image"
        print(
            f"{name}: {found(result, boxes, labels)} of {len(boxes)} objects, {len(result)} detections, {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
