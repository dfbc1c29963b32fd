"""`loading ...`: a line on stderr if a command prints nothing in its first second, e.g. while torch is imported."""

from __future__ import annotations

import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Timer

SECONDS = 0.8  # after the start of `main`; Python itself has taken .1 before that
TIMER: ContextVar[Timer | None] = ContextVar("timer of the loading line", default=None)


def start_loading_line() -> None:
    """Print the line after SECONDS, unless `end_loading_line` is called before."""
    from threading import Timer  # imported here, because `rcnn --help` does not need it

    timer = Timer(SECONDS, _print)
    timer.daemon = True
    TIMER.set(timer)
    timer.start()


def end_loading_line() -> None:
    """The command prints something now, or has ended."""
    timer = TIMER.get()
    if timer is not None:
        timer.cancel()
        TIMER.set(None)


def _print() -> None:
    with suppress(OSError, ValueError):  # stderr is closed
        print("loading ...", file=sys.stderr, flush=True)
