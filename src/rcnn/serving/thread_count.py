"""How many threads the model of a service uses for one batch.

Each operator of a small model is too short for many threads. They then wait for each other more than they compute,
and for the cores that decode images and write answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from rcnn import threads

LARGE = 0.5  # seconds for an image: the operators of such a model are long enough for all threads
NEARLY = 1.15  # fewer threads are preferred if they need at most this many times the time of more threads
REPEATS = 3


def limit_threads(run: Callable[[], object]) -> int:
    """Set the number of torch's threads for `run`, which processes an image on the CPU, and return it.

    Of all threads, a half, a quarter, ... it is the last one before a step down makes it clearly slower. The number
    stays as it is if the user has set it, or for a model that needs long for an image.
    """
    count = torch.get_num_threads()
    run()  # the first call is slower
    if threads.set_by_user() or count == 1 or _seconds(run) > LARGE:
        return count
    fastest, number = math.inf, count
    while number:
        torch.set_num_threads(number)
        seconds = min(_seconds(run) for _ in range(REPEATS))
        if seconds > NEARLY * fastest:
            break
        fastest, count, number = min(fastest, seconds), number, number // 2
    torch.set_num_threads(count)
    return count


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
