"""Run functions in daemon threads: an interrupt does not wait for them, e.g. for a disk that does not answer.

`concurrent.futures.ThreadPoolExecutor` does not fit: an interrupt and the end of Python wait for its threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Self, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


def in_background(function: Callable[..., T], *arguments: object) -> Future[T]:
    """Run `function` in a daemon thread: an interrupt does not wait for it."""
    future: Future[T] = Future()
    threading.Thread(target=_run, args=(future, function, arguments), daemon=True).start()
    return future


class DaemonThreads:
    """`count` daemon threads that run functions in order. Leaving the block does not wait for running functions."""

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = count
        for _ in range(count):
            threading.Thread(target=_work, args=(self._calls,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(queue.Empty):  # functions that have not started are not run
            while True:
                self._calls.get_nowait()
        for _ in range(self._count):
            self._calls.put(None)

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Run `function` when a thread is free."""
        future: Future[T] = Future()
        self._calls.put(lambda: _run(future, function, arguments))
        return future

    def map(self, function: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """The results for all items, in order."""
        for future in [self.submit(function, item) for item in items]:
            yield future.result()


def _run(future: Future[T], function: Callable[..., T], arguments: tuple[object, ...]) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)


def _work(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
