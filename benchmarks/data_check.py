"""Time of `rcnn data check --no-images` on a generated COCO file of 100,000 polygons, and of its parts.

    python benchmarks/data_check.py

Prints one JSON object: seconds and CPU seconds of reading the JSON alone, of opening the data set, of the whole check.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rcnn.data import open_dataset
from rcnn.data.inspect.check import check_dataset


def write(root: Path, annotations: int, images: int) -> Path:
    """A split with polygons of 8 to 60 points (COCO: 24 on average) in images of 480 x 640; returns its file."""
    generator = np.random.default_rng(0)
    (root / "annotations").mkdir()
    (root / "train").mkdir()
    entries = []
    for number in range(1, images + 1):
        (root / "train" / f"{number}.jpg").touch()
        entries.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
    objects = []
    for number in range(1, annotations + 1):
        count = int(generator.integers(8, 61))
        turns = np.sort(generator.uniform(0, math.tau, count))
        radii = generator.uniform(0.6, 1, count) * generator.uniform(8, 90)
        points = np.stack([320 + radii * np.cos(turns), 240 + radii * np.sin(turns)], axis=1).round(2)
        low, high = points.min(axis=0), points.max(axis=0)
        objects.append(
            {
                "id": number,
                "image_id": 1 + number % images,
                "category_id": 1 + number % 80,
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "area": float(np.prod(high - low) / 2),
                "iscrowd": 0,
                "segmentation": [points.reshape(-1).tolist()],
            }
        )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    file = root / "annotations" / "instances_train.json"
    file.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}))
    return file


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=16_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), options.annotations, options.images)
        steps: dict[str, Callable[[], object]] = {
            "json": lambda: json.loads(file.read_bytes()),
            "open_dataset": lambda: open_dataset(folder, "train"),
            "check_dataset": lambda: check_dataset(folder, no_images=True),
        }
        seconds: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for name, step in steps.items():
            wall, own = time.perf_counter(), time.process_time()
            step()
            seconds[name], cpu[name] = time.perf_counter() - wall, time.process_time() - own
        report = check_dataset(folder, no_images=True)
    print(
        json.dumps(
            {
                "annotations": options.annotations,
                "images": options.images,
                "seconds": {name: round(value, 2) for name, value in seconds.items()},
                "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
                "findings": [f"{one.kind}: {len(one.ids)}" for one in report.findings],
            }
        )
    )


if __name__ == "__main__":
    main()
