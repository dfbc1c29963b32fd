"""Times of named stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

STAGES = ("decode", "transform", "backbone", "rpn", "heads", "post-process", "paste")


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished its work; does nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Clock:
    """Sums the seconds of named stages. `now` returns the current time in seconds."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._device, self._now = device, now

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        start = self._now()
        yield
        synchronize(self._device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - start
