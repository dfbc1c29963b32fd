"""`rcnn train` as a process: killed workers and signals end it in order, with one message and `last/` saved."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rcnn.training.log import read_log
from rcnn.training.state import read_state
from tests.tiny_data import TINY_MODEL, write_tiny_coco

WORDS = (*TINY_MODEL, "train.steps=100000", "train.batch_size=2", "train.log_every=1", "train.checkpoint_every=100000")
LIMIT = 30  # seconds until a run must have ended


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images to train on."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5}, size=(64, 96))


@pytest.fixture
def running(data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run with two workers, in tmp_path/run, that has done two steps."""
    command = [sys.executable, "-m", "rcnn.cli.main", "train", "mask_rcnn_compact", "--data", str(data), *WORDS]
    command += ["--output", str(tmp_path / "run"), "--device", "cpu", "train.workers=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 120
        while len(read_log(tmp_path / "run" / "log.jsonl")) < 2 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process
    finally:
        with_group = process.pid
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while (alive := processes_of(with_group)) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in alive:
            os.kill(int(pid), signal.SIGKILL)
        assert not alive, "worker processes outlive the run"


def processes_of(group: int) -> list[str]:
    """Ids of the processes of a group."""
    return subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True).stdout.split()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="uses pgrep")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.exhaustive)])
def test_a_lost_worker_ends_the_run_with_its_state_saved(
    running: subprocess.Popen[str], tmp_path: Path, number: int
) -> None:
    os.kill(workers_of(running)[0], number)
    _, errors = running.communicate(timeout=LIMIT)
    assert running.returncode == 2, errors
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if "worker process" in line]
    assert ("killed by SIGKILL" in line) == (number == signal.SIGKILL)
    assert re.fullmatch(r"to continue: rcnn train .* --resume.*", errors.splitlines()[-1])
    check_saved(tmp_path / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="uses pgrep")
@pytest.mark.parametrize(
    "number", [signal.SIGHUP, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_signal_ends_a_wait_for_data(running: subprocess.Popen[str], tmp_path: Path, number: int) -> None:
    for worker in workers_of(running):
        os.kill(worker, signal.SIGSTOP)  # nothing comes any more
    time.sleep(1)
    running.send_signal(number)
    printed, errors = running.communicate(timeout=LIMIT / 2)
    assert running.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "resume" not in errors
    assert "; to continue: rcnn train mask_rcnn_compact --data " in printed
    check_saved(tmp_path / "run")


def check_saved(run: Path) -> None:
    """Every step of the log is in last/, although no checkpoint was due."""
    steps = [line["step"] for line in read_log(run / "log.jsonl")]
    assert read_state(run / "last")["step"] == steps[-1] + 1 == len(steps)
