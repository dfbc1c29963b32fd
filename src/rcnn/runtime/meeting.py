"""Where processes wait for each other without a time limit, as long as those that they wait for are at work.

One process may work alone for hours, e.g. on the metrics. Each process writes a sign of life to a store that all of
them share whenever it has used CPU time. A process that computes writes it. A process that is stopped, or waits for a
lock or a disk, does not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch.distributed as dist

from rcnn.runtime.monitor import Monitor

ASK = 0.02  # seconds between the questions whether all have arrived
OWN, ALL = 0.001, 0.02  # shares of a core that the main thread, or all threads, of a process at work use at least
ENDED, FAILED = "ended", "failed"  # in place of a sign of life
SILENT = 3  # periods without a beat after which a process is known not to run
LAST = 0.3  # seconds in which the first process ends after it has left the meeting, and its launcher ends the others


class LostProcessError(ConnectionError):
    """Another process of the run has failed or does not answer. Its own message says why."""


class StalledProcessError(LostProcessError):
    """Another process of the run is there but does nothing. It has no message of its own."""


class Meeting:
    """The place where the processes wait for each other, seen from one of them. A context manager."""

    def __init__(self, store: dist.Store, *, rank: int, count: int, monitor: Monitor, seconds: float) -> None:
        """`store`: one that no earlier start of the processes has used. `seconds` without work are a stall.

        `monitor` is that of this process.
        """
        self._store, self._rank, self._count, self._monitor, self._seconds = store, rank, count, monitor, seconds
        self._turn = 0  # meetings so far
        self._ended = threading.Event()
        self._period = min(1.0, seconds / 4)
        self._thread = threading.Thread(target=self._show_life, name="signs of life", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(RuntimeError):  # the process with the store has ended
            self._store.set(f"life of {self._rank}", ENDED if error is None else FAILED)

    def wait(self) -> None:
        """Wait until every process has called this as often as this one.

        Raises LostProcessError if one of them has ended, StalledProcessError if it has not worked for `seconds`.
        """
        self._turn += 1
        try:
            self._store.set(self._arrival(self._rank), "")
            if self._turn > 2:  # all have left that meeting
                self._store.delete_key(f"{self._turn - 2}/{self._rank}")
            self._wait_for({rank for rank in range(self._count) if rank != self._rank})
        except RuntimeError:
            # The process with the store has ended. It may have sent its last message before; if not, the exchange
            # that follows fails at once.
            return

    def let_first_end(self) -> None:
        """Wait in all other processes until the first has left the meeting, and for LAST more seconds.

        A launcher ends the other processes at once when one ends with a status other than 0.
        """
        limit = time.monotonic() + self._seconds
        with suppress(RuntimeError):  # the process with the store has ended
            while self._rank and time.monotonic() < limit and self._life_of(0) not in (ENDED, FAILED):
                time.sleep(ASK)
        if self._rank:
            time.sleep(LAST)

    def silent(self) -> list[str]:
        """The other processes that do not run at all, e.g. stopped or on a lost machine, and what each works on.

        It takes up to SILENT periods to find out. A process that waits for another one, or hangs, still runs.
        """
        missing = {rank: self._beat_of(rank) for rank in range(self._count) if rank != self._rank}
        end = time.monotonic() + SILENT * self._period
        while missing and time.monotonic() < end:
            time.sleep(self._period / 4)
            missing = {rank: beat for rank, beat in missing.items() if self._beat_of(rank) == beat}
        left = [rank for rank in missing if self._life_of(rank) in (ENDED, FAILED)]
        return [f"{self.name(rank)} at {_work(beat)}" for rank, beat in missing.items() if rank not in left]

    def name(self, rank: int) -> str:
        """A process in messages, e.g. "process 1 of 4 (pid 4711 on node7)"."""
        key, process = f"place of {rank}", f"process {rank} of {self._count}"
        return f"{process} ({self._store.get(key).decode()})" if self._store.check([key]) else process

    def _beat_of(self, rank: int) -> str:
        key = f"beat of {rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _arrival(self, rank: int) -> str:
        return f"{self._turn}/{rank}"

    def _wait_for(self, missing: set[int]) -> None:
        seen = dict.fromkeys(missing, ("", time.monotonic()))  # sign of life, and when it was new
        last = time.monotonic()
        look = last + self._period
        while not self._store.check([self._arrival(rank) for rank in missing]):
            time.sleep(ASK)
            if time.monotonic() < look:
                continue
            now = time.monotonic()
            if now - last > 4 * self._period:  # all were suspended: the others must have time for a new sign
                seen = {rank: (sign, now) for rank, (sign, _) in seen.items()}
            last, look = now, now + self._period
            for rank in missing:
                sign = self._life_of(rank)  # before the question of the arrival, which comes before the end
                if self._store.check([self._arrival(rank)]):
                    continue
                if sign.partition(" ")[0] != seen[rank][0].partition(" ")[0]:
                    seen[rank] = sign, time.monotonic()
                self._require_life(rank, *seen[rank])

    def _require_life(self, rank: int, sign: str, since: float) -> None:
        process = f"process {rank} of {self._count}"
        if sign == ENDED:
            raise LostProcessError(f"{process} has ended before the others")
        if sign == FAILED:
            raise LostProcessError(f"{process} has failed; its message says why")
        if time.monotonic() - since > self._seconds:
            if silent := self.silent():  # this one may wait for them
                raise StalledProcessError(stopped_message(silent))
            raise StalledProcessError(
                f"{self.name(rank)} has stalled at {_work(sign)}: it has used no CPU time for {self._seconds:g} "
                "seconds. Find out whether something has stopped it, or whether a disk does not answer"
            )

    def _life_of(self, rank: int) -> str:
        """The last sign of life: a number, and what the process works on; "" before the first one."""
        key = f"life of {rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _show_life(self) -> None:
        """Write a sign of life after each period in which this process was at work; print its stacks if it stalls."""
        signs, beats, last, used = 0, 0, time.monotonic(), _cpu_times()
        stalled = False  # its stacks are printed
        with suppress(RuntimeError):  # the process with the store has ended
            self._store.set(f"life of {self._rank}", f"0 {self._monitor.work}")
            self._store.set(f"place of {self._rank}", f"pid {os.getpid()} on {socket.gethostname()}")
            while not self._ended.wait(self._period):
                beats += 1
                self._store.set(f"beat of {self._rank}", f"{beats} {self._monitor.work}")
                now = time.monotonic()
                own, all_threads = (new - old for new, old in zip(_cpu_times(), used, strict=True))
                if own > OWN * (now - last) or all_threads > ALL * (now - last):
                    signs, last, used, stalled = signs + 1, now, _cpu_times(), False
                    self._store.set(f"life of {self._rank}", f"{signs} {self._monitor.work}")
                elif now - last > self._seconds / 2 and not stalled and self._is_awaited():
                    stalled = True
                    self._monitor.print_stacks(self._seconds / 2)

    def _is_awaited(self) -> bool:
        """Whether another process has arrived where this one has not."""
        following = [f"{self._turn + 1}/{rank}" for rank in range(self._count) if rank != self._rank]
        return any(self._store.check([key]) for key in following)


def _work(sign: str) -> str:
    """What a process works on, from its sign of life."""
    return sign.partition(" ")[2] or "the start"


def stopped_message(silent: Sequence[str]) -> str:
    """The message for processes that do not run, as `Meeting.silent` names them."""
    stopped = "has stopped: it no longer runs" if len(silent) == 1 else "have stopped: they no longer run"
    return (
        f"{'; '.join(silent)} {stopped}. Find out whether a signal (kill -STOP, Ctrl-Z) or a debugger stopped it, or "
        "whether its machine was lost"
    )


def _cpu_times() -> tuple[float, float]:
    """CPU seconds of the main thread (0 where the system does not tell, e.g. macOS), and of all threads.

    Threads that only wait, such as those of gloo, use .4 % of a core together.
    """
    thread = threading.main_thread().ident
    if thread is None or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0, time.process_time()
    return time.clock_gettime(time.pthread_getcpuclockid(thread)), time.process_time()
