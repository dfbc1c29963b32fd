"""Python's garbage collector, which costs more than the work where many objects are made and kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_stays() -> Iterator[None]:
    """No collection of cyclic garbage in the block, or in the decorated function.

    For functions that make a dict per object: Python then goes through all objects of the process several times, which
    takes .2 s with torch and the results of 1,000 images (benchmarks/NOTES.md), and finds nothing.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
