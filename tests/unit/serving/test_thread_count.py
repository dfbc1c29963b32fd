"""The number of threads of a service's model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rcnn.serving import thread_count
from rcnn.serving.thread_count import limit_threads


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({8: 0.1, 4: 0.1, 2: 0.1, 1: 0.1}, 1),  # operators too short for threads
        ({8: 0.10, 4: 0.11, 2: 0.2, 1: 0.4}, 4),
        ({8: 0.1, 4: 0.2, 2: 0.3, 1: 0.4}, 8),
        ({8: 0.4, 4: 0.1, 2: 0.2, 1: 0.3}, 4),  # more threads than free cores
        ({8: 2.0, 4: 1.0, 2: 1.0, 1: 1.0}, 8),  # a large model: not measured
    ],
)
def test_the_fewest_threads_that_are_nearly_as_fast(
    seconds: dict[int, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def run() -> None:
        clock[0] += seconds[torch.get_num_threads()]

    monkeypatch.setattr(thread_count.time, "perf_counter", lambda: clock[0])
    assert limit_threads(run) == expected == torch.get_num_threads()


def test_the_users_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert limit_threads(lambda: None) == torch.get_num_threads() == 8
