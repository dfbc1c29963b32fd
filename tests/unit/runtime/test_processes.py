"""How processes find each other when they are started again, and how they share images."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist

from rcnn.runtime.in_flight import ERROR_FILE, IN_FLIGHT
from rcnn.runtime.monitor import RESTING, Monitor
from rcnn.runtime.processes import ALONE, Processes, agreed_name
from tests.unit.training.process_runs import in_processes

NUMBERS = (0, 1, 2, 3, 5, 23, 24, 25, 49)  # of items; 24 are exchanged at once by three processes in groups of one


def start(store: dist.Store, count: int) -> list[str]:
    """What `count` processes, here threads, agree on; the first one comes last."""
    names = [""] * count

    def agree(rank: int) -> None:
        names[rank] = agreed_name(store, Processes(rank=rank, count=count))

    threads = [threading.Thread(target=agree, args=(rank,), daemon=True) for rank in reversed(range(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return names


def test_each_start_of_the_processes_agrees_on_a_new_name() -> None:
    """torch keeps the store, with all that an earlier start has written; the second start has one process less."""
    store = dist.HashStore()
    first, second = start(store, 3), start(store, 2)
    assert len(set(first)) == len(set(second)) == 1
    assert "" not in (first[0], second[0])
    assert first[0] != second[0]


def shared(processes: Processes) -> list[list[int]]:
    """Items that each process makes of its own numbers, in order on the first one."""
    found: list[list[int]] = []
    for count in NUMBERS:
        for size in (1, 2):
            own = processes.own_places(count, size)
            found.append(list(processes.in_order((10 * place for place in own), count, size)))
    return found


def test_items_are_in_order_whatever_their_number(tmp_path: Path) -> None:
    first, *others = in_processes(3, tmp_path, shared)
    assert first == [[10 * place for place in range(count)] for count in NUMBERS for _ in (1, 2)]
    assert others == [[[]] * len(first)] * 2
    for count in NUMBERS:
        parts = [replace(ALONE, rank=rank, count=3).own_places(count, 2) for rank in range(3)]
        assert sorted(place for part in parts for place in part) == list(range(count))


def test_the_monitor_prints_the_stacks_of_a_stall_once(capfd: pytest.CaptureFixture[str]) -> None:
    waited = partial(threading.Event().wait, 0.6)
    with Monitor("process 1 of 4", 0.2, setting="train.watchdog") as monitor:
        waited()  # nothing has begun
        monitor.doing("step 7 with images 3, 12")
        waited()
        monitor.doing("step 8 with images 4, 5")
        monitor.rest()
        waited()
    said = capfd.readouterr().err
    line = "of 4 has made no progress for 0.2 seconds, while working on step 7 with images 3, 12 (train.watchdog)."
    assert said.count("has made no progress") == 1
    assert line in said
    assert "test_the_monitor_prints_the_stacks_of_a_stall_once" in said  # the stack of the thread that waits


def test_a_process_that_rests_is_not_reported_at_its_last_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But at these if an error ended the work on them."""
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    with Monitor("process 1 of 4", 0) as monitor:
        monitor.doing("step 7 with images 3, 12")
        monitor.rest(failed=True)
        assert (tmp_path / IN_FLIGHT).read_text() == "step 7 with images 3, 12\n"
        monitor.rest()
        assert (tmp_path / IN_FLIGHT).read_text() == f"{RESTING}\n"
