"""Worker processes that make training batches.

Worker k of K makes batches first + k, first + k + K, ... and is at most AHEAD batches ahead. On Linux a batch travels
in a memory file (memfd), which needs no space in /dev/shm; elsewhere its bytes travel through a pipe. Unlike
the workers of torch's DataLoader, these install no signal handler in the main process, a worker that dies or stops is
noticed while the main process waits for it, and closing the stream kills them.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing import connection, reduction, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
from torch import Tensor

from rcnn.data.loading.training_batch import TrainingBatch
from rcnn.structures import ImageBatch, Targets

AHEAD = 2  # batches that a worker makes before they are requested
PATIENCE = 20  # seconds without a message from a worker (it may send one per image): the run ends within 30
LONGEST_WAIT = 2.0  # seconds that one wait of a second counts at most: the rest is that of a suspended computer
STARTUP = 100  # the same before its first message: processes that are not forked import torch first
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ALIGNMENT = 64  # bytes; start of each tensor in a batch's memory
MEMORY_FILES = hasattr(os, "memfd_create")
CURE = (
    "The usual cause is too little memory: reduce train.workers or train.batch_size. With train.workers=0, the "
    "training process prepares the images itself"
)


class _MainEndedError(Exception):
    """The main process has ended, so a worker has nothing left to do."""


class WorkerError(OSError):
    """A worker process ended or does not respond. The message says which process, why, and what to do."""


class BatchMaker(Protocol):
    """What the workers run."""

    def make(self, n: int, after_image: Callable[[], None] | None = None) -> TrainingBatch:
        """Batch `n`; `after_image` is called after each image."""
        ...


def batches_of_workers(batches: BatchMaker, first: int, count: int) -> Generator[TrainingBatch, None, None]:
    """The endless stream of batches from batch `first` on, made by `count` processes; closing it ends them.

    A thread receives one batch ahead and, if there is a GPU, copies it to pinned memory. Errors of a
    worker are raised here. Raises WorkerError if a worker ends or does not respond.
    """
    pin = torch.cuda.is_available()
    workers = _Workers(batches, first, count)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        try:
            received = thread.submit(workers.receive, pin)
            while True:
                batch = received.result()
                received = thread.submit(workers.receive, pin)
                yield batch
        finally:
            workers.close()  # this also ends the wait of the thread


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    channel: Connection


class _Workers:
    def __init__(self, batches: BatchMaker, first: int, count: int) -> None:
        self._next = 0  # batches received
        self._workers: list[_Worker] = []
        # at exit multiprocessing joins its processes, but ours ignore SIGTERM: a stream that is not closed would hang
        self._kill = util.Finalize(self, _kill_all, args=(self._workers,), exitpriority=100)
        self._alive: set[int] = set()  # indices of the workers that sent a message
        context = multiprocessing.get_context()
        forked = context.get_start_method() == "fork"
        for number in range(count):
            ours, theirs = context.Pipe()
            # a forked process inherits our ends of the pipes, which must close when this process ends
            inherited = [ours, *(worker.channel for worker in self._workers)] if forked else []
            process = context.Process(
                target=_run_worker, args=(batches, first + number, count, theirs, inherited), daemon=True
            )
            with _stop_signals_held():
                process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def receive(self, pin: bool) -> TrainingBatch:
        """The next batch."""
        number = self._next % len(self._workers)
        worker = self._workers[number]
        self._next += 1
        waited = 0.0  # seconds
        while True:
            began = time.monotonic()
            ready = connection.wait([worker.channel, worker.process.sentinel], timeout=1)
            if worker.channel in ready:
                waited = 0.0
                self._alive.add(number)
                batch = _receive(worker)
                if batch is not None:
                    with suppress(OSError):  # the worker has ended: its next turn reports it
                        worker.channel.send_bytes(b"+")
                    return batch.pin_memory() if pin else batch
            elif ready:
                raise WorkerError(_ended(worker.process))
            else:
                waited += min(time.monotonic() - began, LONGEST_WAIT)
                if waited >= (limit := PATIENCE if number in self._alive else STARTUP):
                    raise WorkerError(
                        f"the worker process {worker.process.pid}, which prepares images, has not responded for "
                        f"{limit} seconds: it may be stopped, or waiting for a disk or network. {CURE}"
                    )

    def close(self) -> None:
        """Kill the processes at once: they have nothing to save."""
        self._kill()


@contextmanager
def _stop_signals_held() -> Iterator[None]:
    """Deliver stop signals after the block: an exception of a handler would be lost in the hooks around a fork."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    held: list[int] = []
    # without handlers that were not set in Python: they cannot be restored
    handlers = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda received, _: held.append(received))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


def _kill_all(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(5)


def _receive(worker: _Worker) -> TrainingBatch | None:
    """The message that has arrived: a batch, an error (raised), or only a sign that the worker runs (None)."""
    try:
        message = worker.channel.recv()
        if isinstance(message, _Layout):
            return _unpack(message, _receive_memory(worker.channel, message.size))
    except (EOFError, OSError, RuntimeError) as error:  # the worker ended while it was sending
        worker.process.join(1)
        raise WorkerError(_ended(worker.process)) from error
    if isinstance(message, Exception):
        raise message
    return None


def _ended(process: BaseProcess) -> str:
    process.join(1)
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended (status {code})"
    return f"the worker process {process.pid}, which prepares images, {how}. {CURE}"


def _run_worker(
    batches: BatchMaker, first: int, step: int, channel: Connection, inherited: Sequence[Connection]
) -> None:
    """Make batches first, first + step, ... until the main process kills this one, or ends itself."""
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    # a terminal sends these to all processes: the main process saves its state, then kills its workers
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(_MainEndedError, EOFError, OSError):  # the last two from the channel, when the main process ends
        channel.send("ready")
        made = 0
        while True:
            _make_and_send(batches, first + made * step, channel)
            made += 1
            if made >= AHEAD:
                channel.recv_bytes()  # permission for one more


def _make_and_send(batches: BatchMaker, n: int, channel: Connection) -> None:
    last_sign = time.monotonic()

    def after_image() -> None:
        nonlocal last_sign
        if time.monotonic() - last_sign > 1:
            last_sign = time.monotonic()
            with _sending():
                channel.send("alive")

    try:
        layout, tensors = _pack(batches.make(n, after_image))
        with _sending():
            if MEMORY_FILES:
                _send_memory(channel, layout, tensors)
            else:
                channel.send(layout)
                channel.send_bytes(_joined(layout, tensors))
    except _MainEndedError:
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)):  # not an image that cannot be read, but a bug: how to find it
            error.add_note("".join(traceback.format_exception(error)))
        with _sending():
            channel.send(_sendable(error))


@contextmanager
def _sending() -> Iterator[None]:
    """Within the block, a broken connection is that to the main process, not one of the user's data set."""
    try:
        yield
    except ConnectionError:
        raise _MainEndedError from None


def _sendable(error: Exception) -> Exception:
    """The error without its traceback, or, if it cannot be sent to another process, one with its text.

    For example, urllib's HTTPError contains an open connection.
    """
    error = error.with_traceback(None)
    try:
        reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(error))
    except Exception:  # of any type: the classes of errors are those of the user
        text = f"{type(error).__name__}: {error}"
        kinds = (kind for kind in (OSError, ValueError) if isinstance(error, kind))
        plain = next(kinds, RuntimeError)(text)
        for note in getattr(error, "__notes__", ()):
            plain.add_note(note)
        return plain
    return error


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in the memory of its batch."""

    start: int  # bytes
    dtype: torch.dtype
    shape: torch.Size
    channels_last: bool = False  # (B, C, H, W) with C last in memory


@dataclass(frozen=True)
class _Layout:
    """A batch without the values of its tensors: a `_Place` for each tensor, other fields as they are."""

    size: int  # bytes
    images: dict[str, Any]
    targets: dict[str, Any]
    image_ids: tuple[int | str, ...]
    first: int
    unreadable: tuple[str, ...]


def _pack(batch: TrainingBatch) -> tuple[_Layout, list[tuple[_Place, Tensor]]]:
    """The layout of a batch, and its tensors with their places."""
    size, placed = 0, list[tuple[_Place, Tensor]]()
    parts: dict[str, dict[str, Any]] = {"images": {}, "targets": {}}
    for name, values in parts.items():
        part = getattr(batch, name)
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, Tensor):
                last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
                place = _Place(size, value.dtype, value.shape, last and not value.is_contiguous())
                placed.append((place, value))
                size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
                value = place
            values[field.name] = value
    layout = _Layout(size, parts["images"], parts["targets"], batch.image_ids, batch.first, batch.unreadable)
    return layout, placed


def pack_and_write(batch: TrainingBatch) -> None:
    """Pack a batch as a worker does, without a process that receives it: for benchmarks."""
    layout, tensors = _pack(batch)
    if MEMORY_FILES:
        os.close(_memory_file(layout, tensors))
    else:
        _joined(layout, tensors)


def _unpack(layout: _Layout, memory: mmap.mmap | bytearray) -> TrainingBatch:
    """The batch; its tensors share `memory`."""

    def values(part: dict[str, Any]) -> dict[str, Any]:
        return {name: _view(value, memory) if isinstance(value, _Place) else value for name, value in part.items()}

    return TrainingBatch(
        images=ImageBatch(**values(layout.images)),
        targets=Targets(**values(layout.targets)),
        image_ids=layout.image_ids,
        first=layout.first,
        unreadable=layout.unreadable,
    )


def _raw(place: _Place, value: Tensor) -> memoryview:
    """The bytes of a tensor, in the order in which `_view` reads them."""
    rows = value.permute(0, 2, 3, 1) if place.channels_last else value
    return rows.contiguous().view(-1).numpy().data.cast("B") if value.numel() else memoryview(b"")


def _joined(layout: _Layout, tensors: Sequence[tuple[_Place, Tensor]]) -> bytearray:
    """The memory of a batch."""
    memory = bytearray(layout.size)
    for place, value in tensors:
        raw = _raw(place, value)
        memory[place.start : place.start + len(raw)] = raw
    return memory


def _memory_file(layout: _Layout, tensors: Sequence[tuple[_Place, Tensor]]) -> int:
    """A new memory file with the memory of a batch.

    Written, not mapped: a page that is mapped is cleared first, and costs a page fault.
    """
    file = os.memfd_create("rcnn-batch")
    try:
        os.ftruncate(file, layout.size)
        for place, value in tensors:
            raw, done = _raw(place, value), 0
            while done < len(raw):  # a single call writes up to 2 GiB
                done += os.pwrite(file, raw[done:], place.start + done)
    except BaseException:
        os.close(file)
        raise
    return file


def _view(place: _Place, memory: mmap.mmap | bytearray) -> Tensor:
    count = place.shape.numel()
    if count == 0:
        return torch.empty(place.shape, dtype=place.dtype)
    flat = torch.frombuffer(memory, dtype=place.dtype, count=count, offset=place.start)
    if not place.channels_last:
        return flat.view(place.shape)
    batch, channels, height, width = place.shape
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _send_memory(channel: Connection, layout: _Layout, tensors: Sequence[tuple[_Place, Tensor]]) -> None:
    file = _memory_file(layout, tensors)
    try:
        channel.send(layout)
        reduction.send_handle(channel, file, os.getppid())
    finally:
        os.close(file)


def _receive_memory(channel: Connection, size: int) -> mmap.mmap | bytearray:
    if not MEMORY_FILES:
        return bytearray(channel.recv_bytes())
    file = reduction.recv_handle(channel)
    try:
        return mmap.mmap(file, size)
    finally:
        os.close(file)
