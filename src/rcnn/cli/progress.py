"""A progress bar with the remaining time; without a terminal, a line every 30 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

QUIET = 30.0  # seconds between two lines


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, named `what`, with `total` steps; call the yielded function once per step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        done, reported = 0, time.monotonic()

        def advance() -> None:
            nonlocal done, reported
            done += 1
            progress.advance(task)
            if not console.is_terminal and time.monotonic() - reported >= QUIET:
                reported = time.monotonic()
                with suppress(OSError):
                    console.print(f"{what}: {done} of {total}", highlight=False)

        yield advance


@contextmanager
def byte_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr for a download, with its speed and the remaining time; one line without a terminal.

    Call the yielded function with the number of bytes so far, and of the whole file (None: unknown).
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading {name}", highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
