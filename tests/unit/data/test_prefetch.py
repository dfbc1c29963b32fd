"""Batches copied ahead: the order of copies, waits and uses, with a fake stream; memory over epochs."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rcnn.data.loading import TrainingBatch, prefetched, training_batches
from rcnn.structures import ImageBatch, Targets
from tests.unit.training.noise_folders import Model, Settings, seven_images

CPU = torch.device("cpu")


class FakeStream:
    """Writes down what is asked of it."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    @contextmanager
    def copying(self) -> Iterator[None]:
        self.events.append("copy")
        yield

    def wait(self) -> None:
        self.events.append("wait")

    def keep(self, tensor: torch.Tensor) -> None:
        self.events.append("keep")


def numbered(events: list[str], count: int, error: Exception | None = None) -> Generator[TrainingBatch, None, None]:
    try:
        for n in range(count):
            events.append(f"read {n}")
            yield TrainingBatch(
                images=ImageBatch(pixels=torch.full((1, 3, 4, 5), n), sizes=torch.tensor([[4, 5]])),
                targets=Targets(
                    boxes=torch.zeros(1, 0, 4), labels=torch.zeros(1, 0).long(), valid=torch.zeros(1, 0).bool()
                ),
                image_ids=(n,),
            )
        assert error is not None
        raise error
    finally:
        events.append("closed")


def test_the_next_batch_is_copied_before_a_batch_is_used() -> None:
    events: list[str] = []
    stream = prefetched(numbered(events, 9), CPU, FakeStream(events))
    for n in range(2):
        assert next(stream).image_ids == (n,)
        events.append(f"use {n}")
    stream.close()
    kept = ["keep"] * 5
    assert events == [
        *("read 0", "copy", "wait", *kept, "read 1", "copy", "use 0"),
        *("wait", *kept, "read 2", "copy", "use 1", "closed"),
    ]


def test_an_error_is_raised_in_its_turn() -> None:
    """The batch before an unreadable image is trained on first."""
    events: list[str] = []
    stream = prefetched(numbered(events, 2, OSError("unreadable")), CPU, FakeStream(events))
    assert [next(stream).image_ids for _ in range(2)] == [(0,), (1,)]
    with pytest.raises(OSError, match="unreadable"):
        next(stream)
    assert events[-1] == "closed"


def test_without_a_gpu_batches_are_returned_as_they_are() -> None:
    batches = numbered([], 3)
    assert prefetched(batches, CPU) is batches


def test_memory_is_flat_over_epochs(tmp_path: Path) -> None:
    """No tensor and no record of an earlier epoch is kept."""
    stream = training_batches(seven_images(tmp_path), Model(), Settings(flip=0.5))

    def tensors_after(batches: int) -> int:
        for _ in range(batches):
            next(stream)
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    counts = [tensors_after(35) for _ in range(3)]  # 10 epochs each
    assert counts[0] == counts[1] == counts[2]
