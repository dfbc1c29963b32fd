"""Watch a process: print its stacks when it stalls, and record its current step for the launcher."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import few
from rcnn.runtime.in_flight import InFlight
from rcnn.runtime.processes import Processes


class Monitor:
    """Prints the stacks of all threads when `beat` was not called for `seconds` (0: never). A context manager.

    Every process of a run has one. Where one of them stalls, the others wait for it, so all print their stacks.
    """

    def __init__(self, processes: Processes, seconds: float) -> None:
        self._processes, self._seconds = processes, seconds
        self._note = InFlight()
        self._last, self._doing = time.monotonic(), "the start"
        self._paused = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()
        self._note.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that may take long without a beat."""
        self._paused = True
        try:
            yield
        finally:
            self.beat()
            self._paused = False

    def beat(self) -> None:
        """Report progress."""
        self._last = time.monotonic()

    def step(self, step: int, batches: Iterable[TrainingBatch]) -> None:
        """Report that `step` starts, with the images of `batches`."""
        ids = list(dict.fromkeys(name for batch in batches for name in batch.image_ids))
        self._doing = f"step {step} with the images {few(ids)}"
        self._note.note(self._doing)
        self.beat()

    def _watch(self) -> None:
        reported = 0.0  # the beat after which the stacks were printed: once per stall
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            last = self._last
            if not self._paused and last != reported and time.monotonic() - last > self._seconds:
                reported = last
                process = f"process {self._processes.rank} of {self._processes.count}"
                print(
                    f"rcnn: {process} has made no progress for {self._seconds:g} seconds, after {self._doing} "
                    "(train.watchdog). Its stacks:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(file=2, all_threads=True)
