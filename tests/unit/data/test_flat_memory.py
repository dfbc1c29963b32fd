"""The resident memory of the workers and of the main process does not grow from epoch to epoch."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import rcnn
from rcnn.data.loading import Batches, TrainingBatch, numbered_batches
from rcnn.data.loading.workers import batches_of_workers
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.noise_folders import Model, Settings, seven_images

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 2**20
KEPT: list[torch.Tensor] = []  # in each process


def resident() -> dict[str, float]:
    """The resident memory of this process and of its children, MiB."""
    processes = {"main": os.getpid()}
    processes |= {f"worker {number}": child.pid or 0 for number, child in enumerate(multiprocessing.active_children())}
    page = os.sysconf("SC_PAGE_SIZE")
    pages = {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for name, pid in processes.items()}
    return {name: count * page / MIB for name, count in pages.items()}


def grown(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """MiB that each process has grown by."""
    assert first.keys() == last.keys()
    return {name: last[name] - first[name] for name in first}


def return_free_memory() -> None:
    """Give the memory that earlier tests freed back to the system: a forked worker would fill it before it grows."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class Keeping:
    """Makes batches, and keeps 2 MB of each."""

    batches: Batches

    def make(self, n: int, after_image: Callable[[], None] | None = None) -> TrainingBatch:
        KEPT.append(torch.ones(500_000))
        return self.batches.make(n, after_image)


@pytest.mark.parametrize("leaks", [False, True])
def test_memory_of_the_workers_is_flat(tmp_path: Path, leaks: bool) -> None:
    """20 epochs after the first 10. The second case shows that 2 MB per batch are seen."""
    return_free_memory()
    batches = numbered_batches(seven_images(tmp_path), Model(), Settings(flip=0.5))
    with closing(batches_of_workers(Keeping(batches) if leaks else batches, 0, 2)) as stream:

        def after(count: int) -> dict[str, float]:
            for _ in range(count):
                next(stream)
            return resident()

        growth = grown(after(35), after(70))
    assert len(growth) == 3
    assert growth["main"] < 1.5
    for number in range(2):
        assert growth[f"worker {number}"] > 20 if leaks else growth[f"worker {number}"] < 1.5


class Memory:
    """A tracker that notes the memory at each step."""

    def __init__(self) -> None:
        self.noted = dict[int, dict[str, float]]()

    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        """Nothing is opened."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.noted[step] = resident()

    def close(self) -> None:
        """Nothing is closed."""


@pytest.mark.exhaustive
def test_memory_of_a_whole_run_is_flat(tmp_path: Path) -> None:
    """20 epochs of training with two workers and an evaluation after each: from the 5th on, no process grows."""
    data, memory = write_tiny_coco(tmp_path / "data", {"train": 12, "val": 2}, size=(120, 160)), Memory()
    words = [*TINY_MODEL, "train.steps=120", "train.batch_size=2", "train.workers=2", "train.log_every=6"]
    words += ["train.evaluate_every=6", "train.checkpoint_every=30", "train.pictures=0", "train.trackers=[]"]
    rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=words, device="cpu", trackers=[memory])
    growth = grown(memory.noted[29], memory.noted[119])
    assert len(growth) == 3
    assert growth["main"] < 12
    assert max(growth["worker 0"], growth["worker 1"]) < 1.5
