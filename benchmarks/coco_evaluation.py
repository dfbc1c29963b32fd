"""COCO's metrics of boxes and masks on 5,000 images: ours beside pycocotools, in one process.

    python benchmarks/coco_evaluation.py --images 5000

Random ground truth (7 objects per image, 80 classes) and detections near it (20 per image, masks as run lengths). Each
peer starts from the annotations and the results in memory. Ours is measured twice: with the results all at once, as for
a file of results, and image by image, as the results of a model: their numbers are not checked, and the time after the
last image is measured, too. The exit code is 1 if a number differs by more than 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from measure import write
from rcnn.metrics.choice import evaluate, measure
from rcnn.metrics.values import Metrics

SIZE = (480, 640)  # height, width
CLASSES, OBJECTS, DETECTIONS = 80, 7, 20  # objects and detections per image
KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def ellipse(box: np.ndarray) -> dict[str, Any]:
    """The run lengths of the ellipse in a box (x, y, width, height)."""
    x, y, width, height = box
    turns = np.arange(24) * 2 * np.pi / 24
    points = np.stack([x + width / 2 * (1 + np.cos(turns)), y + height / 2 * (1 + np.sin(turns))], 1)
    [rle] = coco_mask.frPyObjects([points.ravel().tolist()], *SIZE)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_data(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO annotation file and results."""
    generator = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        corner = generator.uniform(0, 0.6, (OBJECTS, 2)) * SIZE[::-1]
        boxes = np.concatenate([corner, generator.uniform(0.02, 0.4, (OBJECTS, 2)) * SIZE[::-1]], 1)
        labels = generator.integers(1, CLASSES + 1, OBJECTS)
        for box, label in zip(boxes, labels.tolist(), strict=True):
            rle = ellipse(box)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": label, "iscrowd": 0,
                    "bbox": box.tolist(), "segmentation": rle, "area": float(coco_mask.area(rle)),
                }
            )  # fmt: skip
        chosen = generator.integers(0, OBJECTS, DETECTIONS)
        near = boxes[chosen] * generator.uniform(0.8, 1.25, (DETECTIONS, 4))
        for box, label in zip(near, labels[chosen].tolist(), strict=True):
            score = float(generator.random())
            results.append(
                {
                    "image_id": image,
                    "category_id": label,
                    "score": score,
                    "bbox": box.tolist(),
                    "segmentation": ellipse(box),
                }
            )
    truth = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)],
    }
    return truth, results


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Its six APs by kind."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        values: dict[str, list[float]] = {}
        for kind in KINDS:
            # it takes the area of a result from its box if there is one, also for masks
            fields = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
            found = coco.loadRes([{name: one[name] for name in fields} for one in results])
            evaluation = COCOeval(coco, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            values[kind] = [float(one) for one in evaluation.stats[:6]]
    return values


def by_rcnn(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The same from rcnn, which checks the results."""
    return aps(evaluate("coco", truth, results, KINDS, image_ids=[image["id"] for image in truth["images"]]))


class ImageByImage:
    """The same as `rcnn eval` does it with the results of a model; `after` are the seconds after the last image."""

    def __init__(self) -> None:
        self.after = float("inf")

    def __call__(self, truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, list[float]]:
        of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
        for result in results:
            of_image[result["image_id"]].append(result)
        measurement = measure("coco", truth, KINDS, [*of_image])
        for image_id, found in of_image.items():
            measurement.add([image_id], found, checked=True)
        start = time.perf_counter()
        values = aps(measurement.metrics())
        self.after = min(self.after, time.perf_counter() - start)
        return values


def aps(metrics: Metrics) -> dict[str, list[float]]:
    """Six APs by kind."""
    return {kind: [float(metrics.kinds[kind][name] or 0) for name in NAMES] for kind in KINDS}


def main() -> None:
    """The peers in turn; the shortest times count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    truth, results = random_data(options.images)
    image_by_image = ImageByImage()
    peers = {"rcnn": by_rcnn, "rcnn, image by image": image_by_image, "pycocotools": by_pycocotools}
    seconds = {name: {"wall": float("inf"), "cpu": float("inf")} for name in peers}
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.repeats):
        for name, peer in peers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = peer(truth, results)
            best = seconds[name]
            best["wall"] = min(best["wall"], time.perf_counter() - wall)
            best["cpu"] = min(best["cpu"], time.process_time() - cpu)
    expected = found["pycocotools"]
    difference = max(
        abs(a - b) for ours in found.values() for kind in KINDS for a, b in zip(ours[kind], expected[kind], strict=True)
    )
    values = {
        "images": options.images,
        "results": len(results),
        "seconds": seconds,
        "seconds_after_the_last_image": image_by_image.after,
        "times_faster": {
            name: {clock: seconds["pycocotools"][clock] / own[clock] for clock in own}
            for name, own in seconds.items()
            if name != "pycocotools"
        },
        "largest_difference": difference,
    }
    print(json.dumps(values, indent=2))
    command = "python benchmarks/coco_evaluation.py " + " ".join(sys.argv[1:])
    print(f"wrote {write('coco_evaluation', command, values)}", file=sys.stderr)
    if difference > 1e-9:
        sys.exit(f"the metrics differ by {difference}")


if __name__ == "__main__":
    main()
