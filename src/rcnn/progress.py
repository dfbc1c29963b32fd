"""Types of the functions that report progress. The command line passes bars (cli/progress.py); the default is none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

# name and number of steps -> a context with a function that is called once per step
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
# called with the bytes so far, and those of the whole file if they are known
ByteCounter: TypeAlias = Callable[[int, int | None], object]
# name of a file -> a context with a counter of its bytes
DownloadProgress: TypeAlias = Callable[[str], AbstractContextManager[ByteCounter]]


def no_progress(name: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """Show nothing."""
    return nullcontext(lambda: None)


def no_download_progress(name: str) -> AbstractContextManager[ByteCounter]:
    """Show nothing."""
    return nullcontext(lambda done, total: None)
