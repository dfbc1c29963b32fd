"""Requests to stop a run: Ctrl-C (SIGINT), SIGTERM (kill, batch systems), SIGHUP (a lost terminal), the time limit.

SIGUSR1 and SIGUSR2 stop it too: with `sbatch --signal=USR1@120`, SLURM sends USR1 120 seconds before its time limit.
At the time limit, the system sends SIGALRM (not on Windows), so that a process that waits for data is woken.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

LONGEST = 1e8  # seconds, three years; longer time limits are none


class StopRequested(BaseException):
    """A signal or the time limit asked the run to stop.

    Not an Exception, so that code between the signal and the loop lets it pass.
    """


class StopRequests:
    """What asked to stop, if anything did: a signal, or the end of the time limit."""

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds` until the time limit; 0: none."""
        self.signal: int | None = None
        self.process = 0  # number of the process that got the signal; the lowest, if several did
        self._deadline = time.monotonic() + seconds if seconds else None
        self._interrupting = False
        self._interrupts = 0  # Ctrl-C so far

    @property
    def requested(self) -> bool:
        """Whether a signal asked to stop."""
        return self.signal is not None

    @property
    def expired(self) -> bool:
        """Whether the time limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this block a stop request raises StopRequested at once, even while the process waits for data."""
        self._interrupting = True
        try:
            if self.requested or self.expired:
                raise StopRequested
            yield
        finally:
            self._interrupting = False

    def unless_stopped(self, compute: Callable[[], T]) -> T | None:
        """What `compute` returns; None if a stop request comes before it returns, which ends it at once."""
        with suppress(StopRequested), self.interrupting():
            return compute()
        return None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. The second Ctrl-C raises KeyboardInterrupt, which ends the run without saving."""
        self.signal = self.signal or number
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self._interrupting:
            raise StopRequested

    def expire(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal at the end of the time limit."""
        if self._interrupting:
            raise StopRequested


@contextmanager
def stop_requests(seconds: float = 0.0) -> Iterator[StopRequests]:
    """Collect stop requests while the block runs; `seconds`: the time limit (0: none).

    Signals are collected in the main thread only, which gets all of them.
    """
    requests = StopRequests(seconds)
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]  # not on Windows
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored by nohup
        numbers.append(signal.SIGHUP)
    # getsignal is None for a handler that was not set by Python; it cannot be restored
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    for number in before:
        signal.signal(number, requests.handle)
    try:
        with _alarm(requests, seconds):
            yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alarm(requests: StopRequests, seconds: float) -> Iterator[None]:
    """Within the block, SIGALRM arrives at the end of the time limit."""
    if not 0 < seconds < LONGEST or not hasattr(signal, "SIGALRM"):
        yield
        return
    before, started = signal.signal(signal.SIGALRM, requests.expire), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if left:  # a timer of the program that trains
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, left - (time.monotonic() - started)), interval)
