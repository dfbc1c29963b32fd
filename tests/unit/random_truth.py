"""Random COCO ground truth and detections with crowds, ties, empty images and all sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as rle

HEIGHT, WIDTH = 240, 320
CATEGORIES = ((7, "cup"), (2, "boat"), (31, "kite"), (4, "nobody has one"))  # not by ascending id, with gaps
Entry = dict[str, Any]


def random_truth(seed: int, images: int = 20, objects: int = 12) -> Entry:
    """Boxes of every area range, a fifth of them crowds (RLE), polygons of one or two parts; each third image empty."""
    random = np.random.default_rng(seed)
    annotations: list[Entry] = []
    for image_id in range(1, images + 1):
        for _ in range(random.integers(0, objects) if image_id % 3 else 0):
            x, y, width, height = _box(random)
            crowd = random.random() < 0.2
            outline: Entry | list[list[float]]
            if crowd:
                encoded = _crowd(random, x, y, width, height)
                outline = _text(encoded)
            else:
                outline = _polygons(random, x, y, width, height)
                encoded = rle.merge(rle.frPyObjects(outline, HEIGHT, WIDTH))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(random.choice([7, 2, 31])),
                    "bbox": [x, y, width, height],
                    "area": float(rle.area(encoded)),
                    "iscrowd": int(crowd),
                    "segmentation": outline,
                }
            )
    return {
        "info": {},
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES],
        "annotations": annotations,
    }


def random_results(truth: Entry, seed: int, extra: int = 5) -> list[Entry]:
    """The ground-truth objects, moved slightly, some twice, and `extra` wrong boxes per image; scores with ties."""
    random = np.random.default_rng(seed)
    results: list[Entry] = []
    for image in truth["images"]:
        near = [a for a in truth["annotations"] if a["image_id"] == image["id"] for _ in range(random.integers(0, 3))]
        boxes = [(np.array(a["bbox"]) + random.normal(0, 2, 4), a["category_id"]) for a in near]
        boxes += [(np.array(_box(random)), int(random.choice([7, 2, 31, 4]))) for _ in range(extra)]
        for place, (box, category_id) in enumerate(boxes):
            x, y, width, height = (float(value) for value in np.maximum(box, [0, 0, 2, 2]))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category_id,
                    "score": float(random.integers(4, 10) if place < len(near) else random.integers(1, 8)) / 10,
                    "bbox": [x, y, width, height],
                    "segmentation": _text(rle.frPyObjects([corners], HEIGHT, WIDTH)[0]),
                }
            )
    order = random.permutation(len(results))
    return [results[place] for place in order]


def _box(random: np.random.Generator) -> tuple[float, float, float, float]:
    side, aspect = np.exp(random.uniform(np.log(8), np.log(200))), np.exp(random.uniform(-0.5, 0.5))
    width, height = float(side * aspect), float(side / aspect)
    x, y = random.uniform(0, WIDTH - min(width, WIDTH - 2)), random.uniform(0, HEIGHT - min(height, HEIGHT - 2))
    return float(x), float(y), min(width, WIDTH - float(x)), min(height, HEIGHT - float(y))


def _polygons(random: np.random.Generator, x: float, y: float, width: float, height: float) -> list[list[float]]:
    whole = [x, y, x + width, y, x + width, y + height, x, y + height]
    if random.random() < 0.6:
        return [whole]
    middle = x + width / 2
    return [[x, y, middle, y, x, y + height], [middle, y, x + width, y, x + width, y + height, middle, y + height]]


def _crowd(random: np.random.Generator, x: float, y: float, width: float, height: float) -> Entry:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    part = mask[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
    part[:] = random.random(part.shape) < 0.7
    return rle.encode(mask)


def _text(encoded: Entry) -> Entry:
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
