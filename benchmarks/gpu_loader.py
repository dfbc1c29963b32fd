"""The loader in benchmarks/gpu.py: batches of worker processes, copied from pinned memory on a side stream."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import fields
from itertools import islice

import torch
from torch import Tensor

from gpu_report import Report
from rcnn.data import Dataset
from rcnn.data.loading import TrainingBatch, prefetched, training_batches
from rcnn.data.targets import TargetOptions
from rcnn.preprocess import InputConfig
from rcnn.training.settings import TrainConfig


def noise(count: int, size: tuple[int, int]) -> Dataset:
    """`count` noise images of `size` (height, width), landscape and portrait in turns, with two objects each."""
    pairs = list[tuple[Tensor, dict[str, Tensor]]]()
    for number in range(count):
        height, width = size if number % 2 else size[::-1]
        target = {
            "boxes": torch.tensor([[1.0, 2, width / 2, height / 2], [3, 4, width - 1, height - 1]]),
            "labels": torch.tensor([1, 1]),
        }
        pairs.append((torch.randint(0, 256, (3, height, width), dtype=torch.uint8), target))
    return Dataset.from_torch(pairs, classes=["object"])


def tensors(batch: TrainingBatch) -> dict[str, Tensor]:
    """The tensors of a batch by name."""
    found = dict[str, Tensor]()
    for part in (batch.images, batch.targets):
        for field in fields(part):
            if isinstance(value := getattr(part, field.name), Tensor):
                found[f"{type(part).__name__}.{field.name}"] = value
    return found


def prefetch_check(report: Report) -> None:
    """Batches that are copied ahead, while the device computes, equal those that this process makes and copies."""
    size, count = ((48, 64), 4) if report.tiny else ((800, 1216), 12)
    data, config = noise(8, size), InputConfig(min_size=min(size), max_size=max(size))
    on_cuda = report.device.type == "cuda"

    def stream(workers: int) -> Generator[TrainingBatch, None, None]:
        settings = TrainConfig(batch_size=2, workers=workers, jitter=0.2)
        return training_batches(data, config, settings, targets=TargetOptions(masks=None))

    with report.checking("loader: pinned memory and side stream"):
        with closing(stream(2)) as made:
            pinned = [value.is_pinned() for value in tensors(next(made)).values() if value.numel()]
            assert pinned
            assert set(pinned) == {on_cuda}, f"pinned: {pinned}"
        square = torch.rand(512 if report.tiny else 8192, 512 if report.tiny else 8192, device=report.device)
        kept = list[dict[str, Tensor]]()
        with closing(prefetched(stream(2), report.device)) as ahead:
            for batch in islice(ahead, count):
                assert all(value.device.type == report.device.type for value in tensors(batch).values())
                square = (square @ square).clamp(0, 1)  # the device is busy while the next batch is copied
                kept.append({name: value.clone() for name, value in tensors(batch).items()})
        report.wait()
        with closing(stream(0)) as plain:
            for found, batch in zip(kept, islice(plain, count), strict=True):
                expected = tensors(batch)
                assert found.keys() == expected.keys()
                for name, value in expected.items():
                    torch.testing.assert_close(found[name].cpu(), value, rtol=0, atol=0, msg=f"{name} differs")
