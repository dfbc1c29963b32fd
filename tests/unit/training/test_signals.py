"""The time limit wakes a process that waits, as signals do; test_engine.py has those."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rcnn.data.loading import TrainingBatch
from rcnn.models import Detector
from rcnn.training.signals import StopRequested, stop_requests
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream, tiny

LONG = 60.0  # seconds of a wait that is interrupted
SHORT = 0.05  # seconds until the time limit


def test_the_time_limit_interrupts_a_wait() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()
    timer = signal.getitimer(signal.ITIMER_REAL)[0]  # the limit of a test
    with stop_requests(SHORT) as stop, pytest.raises(StopRequested), stop.interrupting():
        time.sleep(LONG)
    assert time.monotonic() - start < LONG / 2
    assert (stop.expired, stop.requested) == (True, False)
    assert signal.getsignal(signal.SIGALRM) is before
    assert timer - LONG < signal.getitimer(signal.ITIMER_REAL)[0] < timer


def test_work_that_is_to_be_completed_is_not_interrupted_by_the_time_limit() -> None:
    with stop_requests(SHORT) as stop:
        while not stop.expired:
            time.sleep(SHORT)
        time.sleep(SHORT)
        with pytest.raises(StopRequested), stop.interrupting():
            pass


def test_the_time_limit_ends_a_run_that_waits_for_data_or_evaluates(tmp_path: Path) -> None:
    def waiting(first: int) -> Iterator[TrainingBatch]:
        time.sleep(LONG)
        yield from stream(first)

    def stopped(detector: Detector) -> dict[str, dict[str, float]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    def slow(detector: Detector) -> dict[str, dict[str, float]]:
        time.sleep(LONG)
        return {}

    start, limited = time.monotonic(), replace(SETTINGS, time_limit=0.3 / 3600)
    outcome = train(tiny(), waiting, limited, tmp_path / "waiting")
    assert (outcome.step, outcome.finished, outcome.signal) == (0, False, None)
    settings, folder = replace(SETTINGS, evaluate_every=1), tmp_path / "evaluating"
    assert train(tiny(), stream, settings, folder, evaluate=stopped).step == 1
    limited = replace(settings, time_limit=0.3 / 3600)
    outcome = train(tiny(), stream, limited, folder, evaluate=slow, resume=True)
    assert (outcome.step, outcome.finished, outcome.signal) == (1, False, None)
    assert time.monotonic() - start < LONG
