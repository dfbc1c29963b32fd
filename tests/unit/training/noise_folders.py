"""Data sets of noise images for tests of batches, and the loader's settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.data import Dataset, open_dataset
from rcnn.data.loading import TrainingBatch
from rcnn.data.loading.padding import Padding
from rcnn.data.transforms import Step
from rcnn.preprocess import InputConfig
from tests.unit.data.coco_folders import annotation

SIZES = [(40, 60), (60, 40), (40, 56), (50, 50), (64, 40), (30, 60), (60, 31)]  # height, width


@dataclass(frozen=True, kw_only=True)
class Settings:
    batch_size: int = 2
    accumulate: int = 1
    padding: Padding = "exact"
    workers: int = 0
    seed: int = 0
    flip: float = 0.0
    drawn_scales: tuple[int, ...] = ()
    jitter: float = 0.0
    augment: tuple[Step, ...] = ()
    repeat_threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model(InputConfig):
    min_size: int = 40
    max_size: int = 80


def write_data(
    root: Path, annotations: list[dict[str, Any]], sizes: list[tuple[int, int]] = SIZES, **category: object
) -> Dataset:
    """Noise pictures 1, 2, .. of `sizes`, and their annotations in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    images = []
    for number, (height, width) in enumerate(sizes, start=1):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    tables = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "kite"} | category]}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(tables))
    return open_dataset(root, "val")


def seven_images(root: Path) -> Dataset:
    """One object in every image except the last; the first has three and a crowd."""
    annotations = [annotation(number, image_id=number) for number in range(1, len(SIZES))]
    triangle = [[5, 5, 15, 5, 5, 12.5], [20, 20, 28, 20, 28, 28]]
    annotations.append(annotation(20, segmentation=triangle, bbox=[5, 5, 23, 23]))
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    annotations.append(annotation(21, segmentation=crowd, bbox=[0, 0, 60, 40], iscrowd=1))
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[10:13, 7:20] = mask[15:18, 9:12] = 1
    rle = coco_mask.encode(mask)
    annotations.append(annotation(22, segmentation=rle | {"counts": rle["counts"].decode()}, bbox=[7, 10, 13, 8]))
    return write_data(root / "data", annotations)


def take(stream: Iterator[TrainingBatch], count: int) -> list[TrainingBatch]:
    return list(itertools.islice(stream, count))
