"""Watch a process: print its stacks when it stalls, and record what it works on for the launcher."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from types import TracebackType
from typing import Self

from rcnn.runtime.in_flight import InFlight

RESTING = "work between two batches, e.g. the computation of metrics"  # noted by `rest`


class Monitor:
    """Prints the stacks of all threads if `doing` was not called for `seconds` (0: never). A context manager.

    Every process of a run has one. Where one of them stalls, the others wait for it, so all print their stacks.
    """

    def __init__(self, process: str, seconds: float, *, setting: str = "") -> None:
        """`process`: its name, e.g. "process 1 of 4". `setting`: the name of the setting of `seconds`."""
        self._process, self._seconds, self._setting = process, seconds, f" ({setting})" if setting else ""
        self._note = InFlight()
        self._last, self.work = time.monotonic(), "the start"
        self._resting = True
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

    def doing(self, text: str) -> None:
        """Report progress: from now on, the process works on `text`, e.g. "step 7 with images 3, 12"."""
        self.work = text
        self._note.note(text)
        self._last, self._resting = time.monotonic(), False

    def rest(self, work: str = RESTING, *, failed: bool = False) -> None:
        """What follows, until the next call of `doing`, is `work` that may take long.

        `failed`: an error ended the work, so that the launcher's message still names what the process worked on.
        """
        self._resting = True
        if not failed:
            self.work = work
            self._note.note(work)

    def _watch(self) -> None:
        reported = 0.0  # the time of `doing` after which the stacks were printed: once per stall
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            last = self._last
            if not self._resting and last != reported and time.monotonic() - last > self._seconds:
                reported = last
                self.print_stacks(self._seconds)

    def print_stacks(self, seconds: float) -> None:
        """Print the stacks of all threads, because this process has made no progress for `seconds`.

        Does nothing if the monitor is off (train.watchdog=0).
        """
        if not self._seconds:
            return
        print(
            f"rcnn: {self._process} has made no progress for {seconds:g} seconds, while working on {self.work}"
            f"{self._setting}. Its stacks:",
            file=sys.__stderr__,
            flush=True,
        )
        faulthandler.dump_traceback(file=2, all_threads=True)
