"""A process of a run that is killed or stalls: the command ends soon, says which one it was, and can continue."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rcnn.training.log import read_log
from tests.tiny_data import TINY_MODEL, write_tiny_coco

WORDS = (
    *TINY_MODEL,
    "train.batch_size=1",
    "train.workers=0",
    "train.warmup_steps=1",
    "train.log_every=1",
    "train.checkpoint_every=2",
)
SECONDS = 300  # far more than needed: the machine may be busy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 4}, size=(32, 48))


@contextmanager
def run_of(data: Path, output: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A run of two processes; what it prints is in one stream."""
    command = [sys.executable, "-m", "rcnn", "train", "mask_rcnn_compact", "--data", str(data), "--output", str(output)]
    command += ["--val-split", "none", "--device", "cpu", "--devices", "2", *WORDS, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()


def children(pid: int) -> list[int]:
    """The processes that `pid` started, by rank."""
    task = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in task.read_text().split()] if task.exists() else []


def wait_for_step(output: Path, step: int) -> None:
    end = time.monotonic() + SECONDS
    while not any(line["step"] >= step for line in read_log(output / "log.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_run_starts_again_after_a_kill_and_ends_after_another(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.jsonl"
    with run_of(data, tmp_path / "run", "--max-restarts", "1", "train.steps=100000") as process:
        wait_for_step(tmp_path / "run", 3)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        time.sleep(1)
        lines, end = len(read_log(log)), time.monotonic() + SECONDS
        while len(read_log(log)) <= lines + 2:  # it goes on from last/
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.2)
        os.kill(children(process.pid)[1], signal.SIGKILL)
        killed = time.monotonic()
        printed, _ = process.communicate(timeout=SECONDS)
        assert time.monotonic() - killed < 60  # 30 on a quiet machine
        assert process.returncode == 2
    assert printed.count("resuming") == 1
    assert re.search(r"rcnn: process 1 of 2 was killed by SIGKILL.*, at step \d+ with the images ", printed), printed
    assert "Traceback" not in printed
    assert (tmp_path / "run" / "last" / "training.pt").exists()


def test_every_process_prints_its_stack_when_one_stalls(data: Path, tmp_path: Path) -> None:
    with run_of(data, tmp_path / "run", "train.steps=100000", "train.watchdog=4") as process:
        wait_for_step(tmp_path / "run", 1)
        stalled = children(process.pid)[1]
        os.kill(stalled, signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(10)  # the other one waits for twice the time of the watchdog
        os.kill(stalled, signal.SIGCONT)  # else the launcher kills it after 30 seconds
        printed, _ = process.communicate(timeout=SECONDS)
        assert time.monotonic() - stopped < 120
        assert process.returncode == 2
    assert "process 0 of 2 makes no progress since 4 seconds, after step" in printed
    assert "most recent call first" in printed
    assert re.search(r"rcnn: .*lost the connection|did not answer|Timed out", printed), printed
