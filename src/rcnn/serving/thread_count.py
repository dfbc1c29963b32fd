"""How many threads the model of a service uses for one batch.

Each operator of a small model is too short for many threads. They then wait for each other more than they compute,
and for the cores that decode images and write answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from rcnn import threads

LARGE = 0.5  # seconds for an image: the operators of such a model are long enough for all threads
NEARLY = 1.15  # fewer threads are preferred if they need at most this many times the time of the fastest number
REPEATS = 3


def limit_threads(run: Callable[[], object]) -> int:
    """Set the number of torch's threads for `run`, which processes an image, and return it.

    It is the smallest of all threads, a half, a quarter, ... 1 that is nearly as fast as the fastest of them. The
    number stays as it is if the user has set it, or for a model that needs long for an image.
    """
    count = torch.get_num_threads()
    run()  # the first call is slower
    if threads.set_by_user() or count == 1 or _seconds(run) > LARGE:
        return count
    numbers = [count]
    while numbers[-1] > 1:
        numbers.append(numbers[-1] // 2)
    times = dict.fromkeys(numbers, float("inf"))
    for _ in range(REPEATS):  # in turn: the speed of a machine changes
        for number in numbers:
            torch.set_num_threads(number)
            times[number] = min(times[number], _seconds(run))
    chosen = min(number for number in numbers if times[number] <= NEARLY * min(times.values()))
    torch.set_num_threads(chosen)
    return chosen


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
