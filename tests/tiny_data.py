"""A COCO data set of a few small images, drawn here: bright squares and discs on dim noise, with polygons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("square", "disc")
COLOURS = ((230, 60, 60), (60, 90, 235))


def write_tiny_coco(
    folder: Path, counts: dict[str, int], *, size: tuple[int, int] = (96, 128), objects: int = 2
) -> Path:
    """`folder` with `counts` images of each split, of `size` (height, width), each with `objects` objects in a row."""
    (folder / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir()
        generator = np.random.default_rng(number)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            picture, found = _scene(generator, size, objects)
            name = f"{split}_{image_id}.png"
            picture.save(folder / split / name)
            images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
            for entry in found:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0} | entry)
        categories = [{"id": 10 * (label + 1), "name": name} for label, name in enumerate(CLASSES)]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / "annotations" / f"instances_{split}.json").write_text(text)
    return folder


def _scene(
    generator: np.random.Generator, size: tuple[int, int], objects: int
) -> tuple[Image.Image, list[dict[str, Any]]]:
    height, width = size
    picture = Image.fromarray(generator.integers(0, 90, (height, width, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(picture)
    found = []
    column = width / objects  # each object has a column of its own
    for place in range(objects):
        label = int(generator.integers(len(CLASSES)))
        radius = generator.uniform(0.22, 0.4) * min(column, height)
        x = column * (place + 0.5) + generator.uniform(-1, 1) * (column / 2 - radius)
        y = generator.uniform(radius, height - radius)
        corners = 4 if CLASSES[label] == "square" else 24
        turns = [(i + 0.5) * math.tau / corners for i in range(corners)]
        reach = radius * (math.sqrt(2) * 0.95 if corners == 4 else 1)
        points = [(x + reach * math.cos(turn), y + reach * math.sin(turn)) for turn in turns]
        pen.polygon(points, fill=COLOURS[label])
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        flat = [round(value, 2) for point in points for value in point]
        found.append({"category_id": 10 * (label + 1), "bbox": box, "area": box[2] * box[3], "segmentation": [flat]})
    return picture, found


TINY_MODEL = (
    # not narrower: oneDNN's backward pass of a strided 1x1 convolution, channels last, crashes below 16 channels
    "backbone.widths=[16,16,16,16]",
    "fpn.channels=16",
    "rpn.sampling.batch_size=64",
    "rpn.proposals.pre_nms_train=100",
    "rpn.proposals.post_nms_train=50",
    "rpn.proposals.pre_nms=50",
    "rpn.proposals.post_nms=20",
    "box.fc_width=32",
    "box.sampling.batch_size=16",
    "mask.convs=1",
    "mask.width=16",
    "input.min_size=96",
    "input.max_size=128",
)


CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def write_tiny_keypoints(folder: Path, counts: dict[str, int], *, size: tuple[int, int] = (64, 96)) -> Path:
    """As `write_tiny_coco`, plus annotation files of the squares only, with their four corners as keypoints.

    One object in ten has none given. Names are by where a corner lies, so that a mirror exchanges them.
    """
    write_tiny_coco(folder, counts, size=size)
    for split in counts:
        tables = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        squares = [entry for entry in tables["annotations"] if entry["category_id"] == 10]
        for number, entry in enumerate(squares):
            x, y, width, height = entry["bbox"]
            corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
            seen = 0 if number % 10 == 9 else 2
            points = [[px, py, seen] if seen else [0, 0, 0] for px, py in corners]
            entry |= {"keypoints": [value for point in points for value in point], "num_keypoints": 2 * seen}
        lines = [[1, 2], [2, 3], [3, 4], [4, 1]]
        category = {"id": 10, "name": "square", "keypoints": list(CORNERS), "skeleton": lines}
        text = json.dumps(tables | {"annotations": squares, "categories": [category]})
        (folder / "annotations" / f"person_keypoints_{split}.json").write_text(text)
    return folder


TINY_KEYPOINT_MODEL = (
    *(word for word in TINY_MODEL if not word.startswith("mask.")),
    "keypoint.convs=1",
    "keypoint.width=16",
)
