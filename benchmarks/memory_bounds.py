"""Peak memory of inputs that could need a lot of it, each in a process of its own.

    python benchmarks/memory_bounds.py      # on Linux

Prints a Markdown table: the peak beyond that of a process that imports rcnn and torch, in MiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from rcnn.data import open_dataset
from rcnn.data.loading import training_batches
from rcnn.data.targets import TargetOptions
from rcnn.models import build_detector, model_config
from rcnn.predictor import Predictor
from rcnn.training.settings import TrainConfig
from rcnn.weights.convert import ConvertOptions, convert_to_folder

OBJECTS = 10_000
PHOTO = (13_100, 13_000)  # height, width: 170 megapixels


def nothing(_folder: Path) -> None:
    """What every process needs: the imports."""


def photo(folder: Path) -> None:
    """`rcnn predict` on a photo of 170 megapixels."""
    config = model_config("faster_rcnn_compact")
    predictor = Predictor(build_detector(config), classes=[str(k) for k in range(config.num_classes)], device="cpu")
    predictor.predict(folder / "photo.jpg")


def detections(_folder: Path) -> None:
    """`mask_rcnn_r50_fpn`, its weights included: 1,000 detections with masks in a photo of 4,000 x 3,000 pixels."""
    config = model_config("mask_rcnn_r50_fpn")
    selection = replace(config.box.selection, max_detections=1000, nms_iou=0.99)
    config = replace(config, box=replace(config.box, score_threshold=0.0, selection=selection))
    predictor = Predictor(build_detector(config), classes=[str(k) for k in range(config.num_classes)], device="cpu")
    small = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    masks = predictor.predict(Image.fromarray(small).resize((4000, 3000))).rles() or ()
    if len(masks) != 1000:
        raise RuntimeError(f"{len(masks)} detections with masks, not 1000")


def objects(folder: Path) -> None:
    """`mask_rcnn_compact`: a training step of an image with 500 objects with outlines."""
    _step(folder / "objects")


def one_object(folder: Path) -> None:
    """The same with one object."""
    _step(folder / "object")


def _step(folder: Path) -> None:
    config = model_config("mask_rcnn_compact")
    model = build_detector(config).train()
    settings = TrainConfig(steps=1, batch_size=1, workers=0)
    batch = next(
        training_batches(open_dataset(folder, "train"), config.input, settings, targets=TargetOptions(masks="polygon"))
    )
    losses = model.losses(batch.images, batch.targets, torch.tensor(0))
    torch.stack(list(losses.values())).sum().backward()


def boxes(folder: Path) -> None:
    """A training batch of an image with 10,000 boxes."""
    _batch(folder / "boxes", None)


def polygons(folder: Path) -> None:
    """The same with outlines, which are cropped for the sampled boxes only."""
    _batch(folder / "polygons", "polygon")


def zip_bomb(folder: Path) -> None:
    """`rcnn convert` of a 1 MB file that unpacks to 1 GiB."""
    try:
        convert_to_folder(folder / "bomb.npz", folder / "out", ConvertOptions(), print)
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)


def _batch(folder: Path, masks: Literal["polygon"] | None) -> None:
    settings = TrainConfig(steps=1, batch_size=1, workers=0)
    dataset = open_dataset(folder, "train")
    next(
        training_batches(dataset, model_config("mask_rcnn_compact").input, settings, targets=TargetOptions(masks=masks))
    )


def write_inputs(folder: Path) -> None:
    """The photo, the data sets and the bomb."""
    Image.new("RGB", PHOTO[::-1], (90, 120, 60)).save(folder / "photo.jpg")
    corners = np.random.default_rng(0).integers(0, 980, (OBJECTS, 2)).tolist()
    for name, count in (("boxes", OBJECTS), ("polygons", OBJECTS), ("objects", 500), ("object", 1)):
        (folder / name / "annotations").mkdir(parents=True)
        (folder / name / "train").mkdir()
        Image.new("RGB", (1000, 1000)).save(folder / name / "train" / "1.png")
        annotations = [
            {"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 200, "bbox": [x, y, 20, 10]}
            | ({"segmentation": [[x, y, x + 20, y, x + 20, y + 10, x, y + 10]]} if name != "boxes" else {})
            for n, (x, y) in enumerate(corners[:count])
        ]
        tables = {
            "images": [{"id": 1, "file_name": "1.png", "height": 1000, "width": 1000}],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "ant"}],
        }
        (folder / name / "annotations" / "instances_train.json").write_text(json.dumps(tables))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(2**30))


def peak(case: Callable[[Path], None], folder: Path) -> float:
    """The peak memory of a process that runs `case`, MiB."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(case, folder, send))
    process.start()
    value = receive.recv()
    process.join()
    return value


def _measured(case: Callable[[Path], None], folder: Path, send: multiprocessing.connection.Connection) -> None:
    case(folder)
    status = Path("/proc/self/status").read_text()  # getrusage would include the peak of the parent process
    send.send(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def main() -> None:
    """Measure every case and print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        base = peak(nothing, folder)
        print(f"| input | peak memory beyond the {base:.0f} MiB of the imports, MiB |\n|---|---|")
        for case in (photo, detections, objects, one_object, boxes, polygons, zip_bomb):
            print(f"| {(case.__doc__ or '').rstrip('.')} | {peak(case, folder) - base:.0f} |")


if __name__ == "__main__":
    main()
