"""Training with 1 and 2 processes on the CPU: images per second, and the share of a step that the exchange takes.

    python benchmarks/scaling.py [--model mask_rcnn_compact] [--batch 2] [--steps 8] [--buckets 1 25 100]

Every process has one thread, so that 2 processes have twice the cores of 1. The exchange is the time of a step minus
that of the same step without averaging gradients; the counts of samples and the batch norms are exchanged in both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from measure import write
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.runtime.launch import launch_function
from rcnn.runtime.processes import Processes, joined
from rcnn.structures import ImageBatch, Targets
from rcnn.training import distributed
from rcnn.training.distributed import without_averaging
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainState

SIZE = (256, 320)  # height, width of the images, which are noise
OBJECTS = 4  # per image


def batch_of(images: int, rank: int) -> tuple[ImageBatch, Targets]:
    """Noise images with squares as objects."""
    generator = torch.Generator().manual_seed(rank)
    pixels = torch.randint(0, 256, (images, 3, *SIZE), generator=generator, dtype=torch.uint8)
    corner = torch.rand(images, OBJECTS, 2, generator=generator) * 180
    boxes = torch.cat([corner, corner + 60], -1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    points = torch.stack([torch.stack(p, -1) for p in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], 2)
    polygons = torch.cat([points, points.roll(-1, 2), torch.zeros(images, OBJECTS, 4, 1)], -1)
    valid = torch.ones(images, OBJECTS, dtype=torch.bool)
    targets = Targets(boxes=boxes, labels=valid.long() * 0, valid=valid, polygons=polygons)
    return ImageBatch(pixels=pixels, sizes=torch.tensor([SIZE] * images)), targets


def seconds_per_step(model: str, images: int, steps: int, bucket: float) -> dict[str, float]:
    """Median seconds of a step, with and without averaging gradients, in one of the processes."""
    torch.set_num_threads(1)
    distributed.BUCKET_MB = bucket  # type: ignore[assignment]
    with joined(torch.device("cpu")) as processes:
        torch.manual_seed(0)
        detector = build_detector(override(model_config(model), ["num_classes=2"])).train()
        state = TrainState.start(detector, TrainConfig(batch_size=images), processes)
        batch = batch_of(images, processes.rank)
        times: dict[str, list[float]] = {"averaged": [], "apart": []}
        for step in range(steps + 2):
            for kind, values in times.items():  # alternating, so that a busy machine is busy for both
                seconds = _step(state, batch, processes, averaged=kind == "averaged")
                if step >= 2:
                    values.append(seconds)
        return {kind: statistics.median(values) for kind, values in times.items()}


def _step(state: TrainState, batch: tuple[ImageBatch, Targets], processes: Processes, *, averaged: bool) -> float:
    processes.most(0)  # the processes start together
    start = time.perf_counter()
    with nullcontext() if averaged else without_averaging(state.model):
        losses = state.model(*batch, torch.tensor([0, batch[0].pixels.shape[0] * processes.rank]))
        torch.stack(list(losses.values())).sum().backward()
    processes.most(0)
    spent = time.perf_counter() - start
    state.optimizer.zero_grad(set_to_none=True)
    return spent


def main() -> None:
    """Measure, print and write results/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mask_rcnn_compact")
    parser.add_argument("--batch", type=int, default=2, help="images per process")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--buckets", type=float, nargs="+", default=[1, 25, 100], help="MB of DDP's buckets")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[dict[str, Any]] = []
    for count, buckets in ((1, options.buckets[:1]), (2, options.buckets)):
        for bucket in buckets:
            found = launch_function(
                seconds_per_step, options.model, options.batch, options.steps, bucket, devices=count
            )
            row: dict[str, Any] = {"processes": count, "bucket_mb": bucket if count > 1 else None}
            row |= {"images_per_second": round(count * options.batch / found["averaged"], 3)}
            row |= {"exchange": round(max(0.0, 1 - found["apart"] / found["averaged"]), 3)}
            rows.append(row)
            print(row, flush=True)
    words = f"--model {options.model} --batch {options.batch} --steps {options.steps}"
    print(write("scaling", f"python benchmarks/scaling.py {words}", {"image": SIZE, "rows": rows}))


if __name__ == "__main__":
    main()
