"""Times of named stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

STAGES = ("decode", "transform", "backbone", "rpn", "heads", "post-process", "paste")


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done its work; the CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Adds up the seconds of named stages; `now` returns seconds."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._device, self._now = device, now

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure what is done in the block."""
        start = self._now()
        yield
        synchronize(self._device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - start
