"""Requests to stop a run: Ctrl-C (SIGINT), SIGTERM (kill, batch systems) and SIGHUP (a lost terminal)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(BaseException):
    """A signal asked the run to stop. Not an Exception, so that code between the signal and the loop lets it pass."""


class StopRequests:
    """The signal that asked to stop, if one did."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupting = False
        self._interrupts = 0  # Ctrl-C so far

    @property
    def requested(self) -> bool:
        """Whether the run is to stop."""
        return self.signal is not None

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this block a stop request raises StopRequested at once, even in a wait for data or a disk."""
        self._interrupting = True
        try:
            if self.requested:
                raise StopRequested
            yield
        finally:
            self._interrupting = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. The second Ctrl-C raises KeyboardInterrupt, which ends the run without saving."""
        self.signal = self.signal or number
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self._interrupting:
            raise StopRequested


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Collect stop requests while the block runs. Without effect outside the main thread, which gets all signals."""
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored by nohup
        numbers.append(signal.SIGHUP)
    # None: a handler that was not set by Python, which cannot be set again
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    for number in before:
        signal.signal(number, requests.handle)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
