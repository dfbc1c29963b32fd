"""Starts work before its result is needed: images are read while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Result = TypeVar("Result")
ReadAhead: TypeAlias = Iterator[tuple[T, Future[Result]]]  # items, and the results of the work that was started on them


def read_ahead(items: Iterable[T], start: Callable[[T], Future[Result]], ahead: int) -> ReadAhead[T, Result]:
    """Each item with the future that `start` returns for it; up to `ahead` later items are started in advance."""
    waiting: deque[tuple[T, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, start(item)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
