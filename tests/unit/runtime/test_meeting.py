"""Processes wait for one that works, however long; they end with a message that names it if it stalls or fails."""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from rcnn.runtime.meeting import LAST
from rcnn.runtime.processes import LostProcessError, Processes, joined, lost_processes
from tests.unit.training.process_runs import started

LIMIT = 1.0  # seconds without work that are a stall
SECONDS = 120  # far more than needed: the machine may be busy


def compute() -> str:
    """Use CPU time for longer than LIMIT."""
    end = time.monotonic() + 2 * LIMIT
    while time.monotonic() < end:
        sum(range(1000))
    return "metrics"


def stall(ended: Path) -> str:
    """Wait for the file `ended`; the threads for signs of life and for the connections go on."""
    wait_for(ended)
    os._exit(0)


def fail() -> str:
    raise ZeroDivisionError


def wait_for(path: Path) -> None:
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(LIMIT / 4)


def first_does(act: str, folder: Path, _: int) -> None:
    """Both processes share what the first one computes, which takes long; then what it does not compute."""
    ended = folder / "ended"
    try:
        with joined(torch.device("cpu"), timeout=LIMIT) as processes:
            processes.rest("the computation of the metrics")
            assert processes.from_first(compute) == "metrics"
            if processes.is_first:
                (folder / "pid").write_text(str(os.getpid()))
            processes.from_first(partial(stall, ended) if act == "stalls" else fail)
    except LostProcessError as error:
        ended.write_text(f"{type(error).__name__}: {error}")
    except ZeroDivisionError:
        wait_for(ended)  # this process has the store; with a launcher, the launcher does


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            "stalls",
            "StalledProcessError: process 0 of 2 (pid PID on HOST) has stalled at the computation of the metrics: it "
            "has used no CPU time for 1 seconds. Find out whether something has stopped it, or whether a disk does not "
            "answer",
        ),
        ("fails", "LostProcessError: process 0 of 2 has failed; its message says why"),
    ],
)
def test_the_others_wait_while_the_first_works(act: str, message: str, tmp_path: Path) -> None:
    started(2, tmp_path, partial(first_does, act, tmp_path))
    expected = message.replace("PID", (tmp_path / "pid").read_text()).replace("HOST", socket.gethostname())
    assert (tmp_path / "ended").read_text() == expected


def second_is_stopped(folder: Path, rank: int) -> None:
    """It is stopped while the first one waits for it in a step; nobody tells the first one."""
    noted = folder / "pid"
    try:
        with joined(torch.device("cpu"), timeout=LIMIT) as processes:
            processes.wait()
            if rank == 1:
                noted.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
                os._exit(0)
            processes.most(1.0)
    except LostProcessError as error:
        (folder / "said").write_text(f"{type(error).__name__}: {error}")
        os.kill(int(noted.read_text()), signal.SIGCONT)


def test_a_process_that_was_stopped_is_named(tmp_path: Path) -> None:
    started(2, tmp_path, partial(second_is_stopped, tmp_path))
    process = f"process 1 of 2 (pid {(tmp_path / 'pid').read_text()} on {socket.gethostname()})"
    assert (tmp_path / "said").read_text() == (
        f"StalledProcessError: {process} at the start has stopped: it no longer runs. Find out whether a signal (kill "
        "-STOP, Ctrl-Z) or a debugger stopped it, or whether its machine was lost"
    )


def leave_one_after_the_other(folder: Path, rank: int) -> None:
    with joined(torch.device("cpu"), timeout=LIMIT) as processes:
        processes.wait()
        if processes.is_first:
            time.sleep(LIMIT / 2)
        processes.let_first_end()
        (folder / f"{rank}.left").write_text(str(time.monotonic()))


def test_the_others_end_after_the_first(tmp_path: Path) -> None:
    """Else their launcher would end the first one before it has written its files and messages."""
    started(2, tmp_path, partial(leave_one_after_the_other, tmp_path))
    first, second = (float((tmp_path / f"{rank}.left").read_text()) for rank in (0, 1))
    assert LAST <= second - first < 60


@pytest.mark.parametrize(
    "message",
    [
        "[third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for send operation",
        "Application timeout caused pair closure",  # the exchange after one that timed out
    ],
)
def test_what_gloo_says_of_a_lost_process_is_no_bug(message: str) -> None:
    with (
        pytest.raises(LostProcessError, match=r"process 1 of 2 lost the connection to another process \("),
        lost_processes(Processes(rank=1, count=2)),
    ):
        raise RuntimeError(message)
