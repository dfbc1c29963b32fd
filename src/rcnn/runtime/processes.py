"""The processes that share a run, started by torchrun or by launch.py: their numbers, and the data they exchange."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rcnn.runtime.meeting import LostProcessError, Meeting, StalledProcessError, stopped_message
from rcnn.runtime.monitor import RESTING, Monitor

T = TypeVar("T")

ROUND = 8  # groups of images that a process predicts before the results are exchanged
TIMEOUT = 1800.0  # seconds that a process waits for the others in a step
WATCHDOG = 300.0  # seconds without progress after which each of several processes prints its stacks
ASK = 0.02  # seconds between questions of the first process whether the others have started
LOST = re.compile(
    r"gloo|pair closure|Connection (?:closed|reset|refused)|Broken pipe|NCCL|Socket|TCPStore", re.IGNORECASE
)
TIMED_OUT = re.compile(r"timed? ?out", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that share a run, seen from one of them. Every process must make the same calls in the same order.

    With one process, nothing is sent.
    """

    rank: int = 0  # of this process, from 0 to count - 1
    count: int = 1
    local_rank: int = 0  # of this process among those of its machine
    meeting: Meeting | None = None  # where they wait for each other; None with one process
    monitor: Monitor | None = None  # of this process
    # all of them call it before each exchange of `in_order`; it may end the work by raising the same in all
    stopping: Callable[[], None] | None = None
    # the first of them calls what the others wait for through it; None in place of a result: `stopping` ends the work
    unless_stopped: Callable[[Callable[[], Any]], Any] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the messages."""
        return self.rank == 0

    def doing(self, text: str) -> None:
        """Report progress: this process now works on `text`, e.g. "step 7 with images 3, 12"."""
        if self.monitor is not None:
            self.monitor.doing(text)

    def rest(self, work: str = RESTING, *, failed: bool = False) -> None:
        """What follows, until the next call of `doing`, is `work` that may take long without being a stall.

        `failed`: after an error, see `Monitor.rest`.
        """
        if self.monitor is not None:
            self.monitor.rest(work, failed=failed)

    def gather(self, value: T, *, patient: bool = True) -> list[T]:
        """The values of all processes by rank, on the first process; an empty list on the others.

        `patient`: the others may take long; this process waits as long as they are at work.
        """
        if self.count == 1:
            return [value]
        if patient:
            self._meet()
        values: list[T | None] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, values, dst=0)
        return [] if values is None else values  # type: ignore[return-value]

    def share(self, value: T) -> T:
        """The value of the first process, on every process; the others wait as long as it is at work."""
        if self.count == 1:
            return value
        self._meet()
        values = [value if self.is_first else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def _meet(self) -> None:
        if self.meeting is not None:
            self.meeting.wait()

    def from_first(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on the first process, on every process; only the first one calls it.

        A stop request to the first process, if `stopping` is set, ends `compute` at once.
        """
        if self.stopping is None or self.unless_stopped is None:
            return self.share(compute() if self.is_first else None)  # type: ignore[arg-type]
        value = self.share(self.unless_stopped(compute) if self.is_first else None)
        self.stopping()
        return value  # type: ignore[return-value]

    def own_places(self, count: int, size: int) -> list[int]:
        """The indices of `count` items that this process works on: groups of `size` go to the processes in turn."""
        return [place for place in range(count) if place // size % self.count == self.rank]

    def in_order(self, own: Iterator[T], count: int, size: int) -> Iterator[T]:
        """All `count` items in order on the first process, from the `own` items of each; nothing on the others.

        The processes exchange them after every ROUND groups, so all must read this iterator to its end.
        """
        if self.count == 1:
            yield from own
            return
        length = ROUND * size * self.count  # items of all processes per exchange
        for start in range(0, count, length):
            end = min(start + length, count)
            mine = len(self.own_places(end - start, size))
            values = list(islice(own, mine))
            if self.stopping is not None:
                self.stopping()
            parts = [iter(part) for part in self.gather(values, patient=False)]
            for place in range(end - start) if parts else ():
                yield next(parts[place // size % self.count])
        self.rest()

    def let_first_end(self) -> None:
        """Wait in all other processes until the first has ended, so that its messages are those of the run."""
        if self.meeting is not None:
            self.meeting.let_first_end()

    def wait(self) -> None:
        """Wait until every process has called this."""
        self.share(None)
        self.gather(None)

    def most(self, *values: float) -> list[float]:
        """The maximum of each value over the processes."""
        if self.count == 1:
            return list(values)
        maxima = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return maxima.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count


ALONE = Processes()


def process_numbers() -> Processes:
    """This process's place among those that a launcher started, from its environment variables; nothing is joined.

    ValueError if they contradict each other.
    """
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    texts = {name: os.environ.get(name, "").strip() for name in names}
    if texts["WORLD_SIZE"] in ("", "1"):
        return ALONE
    if missing := [name for name, text in texts.items() if not text]:
        raise ValueError(
            f"WORLD_SIZE={texts['WORLD_SIZE']}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            "set: start the processes with --devices N or torchrun, or unset WORLD_SIZE"
        )
    try:
        count, rank, local = (int(text) for text in texts.values())
    except ValueError as error:
        shown = ", ".join(f"{name}={text}" for name, text in texts.items())
        raise ValueError(f"{shown}: expected integers, as torchrun sets them") from error
    if not 0 <= rank < count or local < 0:
        raise ValueError(f"RANK={rank}, LOCAL_RANK={local}: expected ranks from 0 to {count - 1} (WORLD_SIZE - 1)")
    return Processes(rank=rank, count=count, local_rank=local)


def processes_here(count: int) -> int:
    """How many of the `count` processes run on this machine, as their launcher says; all, if it does not say."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "").strip()
    return int(local) if local.isdecimal() and 0 < int(local) <= count else count


@contextmanager
def joined(device: torch.device, timeout: float = 0.0, *, watchdog: float | None = None) -> Iterator[Processes]:
    """Within the block, this process is connected to the others that a launcher started, if there are any.

    `device` is that of this process. `timeout`: seconds that a process waits for the others within a step (0: TIMEOUT).
    `watchdog`: the setting train.watchdog, seconds without progress after which a process prints its stacks (0: never);
    None outside of training: WATCHDOG with several processes.
    Raises LostProcessError if an exchange fails because another process has ended.
    """
    numbers = process_numbers()
    seconds = watchdog if watchdog is not None else WATCHDOG if numbers.count > 1 else 0.0
    setting = "" if watchdog is None else "train.watchdog"
    with Monitor(f"process {numbers.rank} of {numbers.count}", seconds, setting=setting) as monitor:
        numbers = replace(numbers, monitor=monitor)
        if numbers.count == 1:
            yield numbers
            return
        with _connected(numbers, device, timeout or TIMEOUT, monitor) as processes:
            yield processes


@contextmanager
def _connected(numbers: Processes, device: torch.device, timeout: float, monitor: Monitor) -> Iterator[Processes]:
    own = not dist.is_initialized()  # else the caller's script did
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with lost_processes(numbers):
        store = _fresh_store(numbers, own=own)
        if own:
            dist.init_process_group(
                backend,
                store=store,
                rank=numbers.rank,
                world_size=numbers.count,
                timeout=timedelta(seconds=timeout),
            )
        place = dist.PrefixStore("rcnn/meeting", store)
        with Meeting(place, rank=numbers.rank, count=numbers.count, monitor=monitor, seconds=timeout) as meeting:
            processes = replace(numbers, meeting=meeting)
            with lost_processes(processes):
                yield processes
        if own:  # not after an error: then this would wait for the other processes, which wait for this one
            dist.destroy_process_group()


def _fresh_store(numbers: Processes, *, own: bool) -> dist.Store:
    """The store in which the processes find each other, without what those that were started before have written.

    `own`: the processes are not connected yet; else it is a part of the store that connected them.

    torch's launcher keeps one store when it starts the processes again; a process that reads an old address there
    cannot connect. TORCHELASTIC_RESTART_COUNT does not tell the starts apart, because each machine counts its own.
    """
    store: dist.Store = (
        next(dist.rendezvous("env://", numbers.rank, numbers.count))[0]
        if own
        else dist.distributed_c10d._get_default_store()
    )
    return dist.PrefixStore(agreed_name(store, numbers), store)


def agreed_name(store: dist.Store, numbers: Processes) -> str:
    """A new name that all processes of this start get, although `store` may hold the messages of an earlier start.

    Each process asks with a number of its own, and the first one answers until each has confirmed the new name.
    Raises dist.DistStoreError after TIMEOUT.
    """
    store.set_timeout(timedelta(seconds=TIMEOUT))
    if not numbers.is_first:
        question = uuid.uuid4().hex
        store.set(f"rcnn/question of {numbers.rank}", question)
        name = store.get(f"rcnn/answer to {question}").decode()
        store.set(f"{name}/{numbers.rank}", "")
        return name
    name, missing, end = f"rcnn/{uuid.uuid4().hex}", set(range(1, numbers.count)), time.monotonic() + TIMEOUT
    while missing:
        for rank in [rank for rank in missing if store.check([f"rcnn/question of {rank}"])]:
            store.set(f"rcnn/answer to {store.get(f'rcnn/question of {rank}').decode()}", name)
        missing = {rank for rank in missing if not store.check([f"{name}/{rank}"])}
        if missing:
            if time.monotonic() > end:
                raise dist.DistStoreError(f"process {min(missing)} did not start within {TIMEOUT:g} seconds")
            time.sleep(ASK)
    return name


@contextmanager
def lost_processes(processes: Processes) -> Iterator[None]:
    """Raise LostProcessError for the errors of torch that say that another process has ended or does not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or LOST.search(str(error)):
            reason = (str(error).splitlines() or [""])[0]
            if silent := _silent(processes, reason):
                raise StalledProcessError(stopped_message(silent)) from error
            raise LostProcessError(
                f"process {processes.rank} of {processes.count} lost the connection to {_other(processes)} ({reason})"
            ) from error
        raise


def _silent(processes: Processes, reason: str) -> list[str]:
    """The other processes that do not run, if `reason` (torch's) says that this one has waited in vain."""
    if processes.meeting is None or not TIMED_OUT.search(reason):
        return []
    try:
        return processes.meeting.silent()
    except RuntimeError:  # the process with the store has ended
        return []


def _other(processes: Processes) -> str:
    """The other process, where there is only one."""
    if processes.meeting is None or processes.count != 2:
        return "another process"
    try:
        return processes.meeting.name(1 - processes.rank)
    except RuntimeError:  # the process with the store has ended
        return f"process {1 - processes.rank}"


def device_of_process(device: torch.device, processes: Processes) -> torch.device:
    """`device` for one process; with several, each has the GPU of its local rank. ValueError if there are too few."""
    if processes.count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(f"device {device} is one GPU, but there are {processes.count} processes; use device=cuda")
    if processes.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {processes.local_rank} of this machine has no GPU: torch finds {torch.cuda.device_count()}; "
            "start one process per GPU"
        )
    return torch.device("cuda", processes.local_rank)
