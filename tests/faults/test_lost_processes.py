"""A process of a run that is killed or stalls: the command ends soon, says which one it was, and can continue."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rcnn.runtime.launch import _ended
from rcnn.training.log import read_log
from rcnn.training.state import read_state
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
    """A run of two processes; what it prints goes to `printed(output)`."""
    command = [sys.executable, "-m", "rcnn", "train", "mask_rcnn_compact", "--data", str(data), "--output", str(output)]
    command += ["--val-split", "none", "--device", "cpu", "--devices", "2", *WORDS, *words]
    with printed(output).open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def printed(output: Path) -> Path:
    return output.with_name(f"{output.name}.txt")


def children(pid: int) -> list[int]:
    """The processes that `pid` started, by rank."""
    task = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in task.read_text().split()] if task.exists() else []


def wait(met: Callable[[], object], process: subprocess.Popen[str], output: Path, what: str) -> None:
    """Wait until `met()`; fail with what the run has printed if it ends before that, or after SECONDS."""
    end = time.monotonic() + SECONDS
    while not met():
        state = "ended" if process.poll() is not None else "took too long" if time.monotonic() > end else ""
        if state and not met():
            pytest.fail(f"the run {state} before {what}; it printed: {printed(output).read_text()}")
        time.sleep(0.1)


def wait_for_step(process: subprocess.Popen[str], output: Path, step: int) -> None:
    log = output / "log.jsonl"
    wait(lambda: any(line["step"] >= step for line in read_log(log)), process, output, f"step {step}")


def printed_with(process: subprocess.Popen[str], output: Path, expected: str) -> str:
    """What the run has printed once it contains the expression `expected`."""
    wait(lambda: re.search(expected, printed(output).read_text()), process, output, f"a line with {expected}")
    return printed(output).read_text()


def test_a_run_starts_again_after_a_kill_and_ends_when_a_process_stalls(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with run_of(data, output, "--max-restarts", "1", "train.steps=100000", "train.watchdog=4") as process:
        wait_for_step(process, output, 3)
        killed = time.monotonic()
        os.kill(children(process.pid)[1], signal.SIGKILL)
        printed_with(process, output, "rcnn: process 1 of 2 was killed by SIGKILL")
        assert time.monotonic() - killed < 30
        said = printed_with(process, output, re.escape("rcnn: starting all processes again (1 of 1)"))
        assert re.search(r"rcnn: process 1 of 2 was killed by SIGKILL.*, at step \d+ with image \d", said), said
        assert "Traceback" not in said
        before = printed_with(process, output, r"resuming .* at step [1-9]")
        done = len(read_log(output / "log.jsonl"))
        wait_for_step(process, output, done + 2)

        first, second = children(process.pid)
        os.kill(second, signal.SIGSTOP)
        # the other one waits for it for twice the time of the watchdog
        wait(lambda: first not in children(process.pid), process, output, f"process {first} had lost the other one")
        os.kill(second, signal.SIGCONT)  # else the launcher kills it after 30 seconds
        assert process.wait(timeout=SECONDS) == 2
    said = printed(output).read_text().removeprefix(before)
    # process 1 may be ended by the launcher's SIGTERM before it says the same
    assert "process 0 of 2 has made no progress for 4 seconds, while working on step" in said, said
    assert said.count("most recent call first") >= 2  # two threads
    assert re.search(
        rf"rcnn: process 1 of 2 \(pid {second} on \S+\) at step .* has stopped: it no longer runs", said
    ), said
    assert re.search(r"^to continue: rcnn train .* --resume .*--devices 2$", said, re.MULTILINE), said
    assert (output / "last" / "training.pt").exists()


@pytest.mark.exhaustive
def test_the_processes_save_and_end_when_the_launcher_is_killed(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with run_of(data, output, "train.steps=100000", "train.checkpoint_every=100000") as process:
        wait_for_step(process, output, 3)
        own = children(process.pid)
        process.kill()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in own):
            assert time.monotonic() < end, "the processes outlive their launcher"
            time.sleep(0.2)
    steps = [line["step"] for line in read_log(output / "log.jsonl")]
    assert read_state(output / "last")["step"] == steps[-1] + 1


def failure(folder: Path, rank: int, exitcode: int, error: Mapping[str, object], ago: int = 1) -> ProcessFailure:
    """A failure of process `rank` as torch's launcher reports it, with a note of what it was doing.

    An `error` was written `ago` seconds before; without one, the time is now.
    """
    own = folder / str(rank)
    own.mkdir(parents=True)
    (own / "in_flight").write_text(f"step 7 with images {rank}4, {rank}5\n")
    if error:
        trace = {"py_callstack": f"Traceback of {rank}", "timestamp": str(int(time.time()) - ago)}
        details = {"message": f"message of {rank}", "extraInfo": trace}
        (own / "error.json").write_text(json.dumps({"message": details, **error}))
    return ProcessFailure(local_rank=rank, pid=1, exitcode=exitcode, error_file=str(own / "error.json"))


def test_a_process_that_had_to_be_killed_is_not_out_of_memory(tmp_path: Path) -> None:
    """Process 1 hangs; 0 waits for it in vain; the launcher kills 1, which does not react to SIGTERM."""
    failures = {0: failure(tmp_path, 0, 2, {"lost": True, "expected": True}, ago=25), 1: failure(tmp_path, 1, -9, {})}
    assert _ended(failures, 2, tmp_path).message == (
        "message of 0\n(process 0 of 2, at step 7 with images 04, 05)\n"
        "process 1 of 2 did not react and was killed, at step 7 with images 14, 15"
    )


def test_the_failure_that_caused_the_others_is_reported(tmp_path: Path) -> None:
    """With its traceback if it is a fault of rcnn, and the images that it was working on."""
    lost, none = {"lost": True, "expected": True}, dict[str, object]()
    for number, (one, other, expected) in enumerate([
        ((2, lost), (2, {"expected": False}), "message of 1\nTraceback of 1\n(process 1 of 2, at step 7 with images "),
        ((-15, none), (2, lost), "message of 1\n(process 1 of 2, at step 7 with images 14, 15)"),
        ((2, lost), (-9, none), "process 1 of 2 was killed by SIGKILL, most often because the memory ran out, at step"),
        ((143, none), (-9, none), "process 1 of 2 was killed by SIGKILL, most often because the memory ran out"),
        ((-9, none), (2, {"expected": True}), "message of 1\n(process 1 of 2, at step 7"),  # 0 had stalled; 1 says so
        ((2, {"expected": True}), (-15, none), "message of 0\n(process 0 of 2, at step 7 with images 04, 05)"),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        failures = {rank: failure(folder, rank, code, error) for rank, (code, error) in enumerate((one, other))}
        ended = _ended(failures, 2, folder)
        assert ended.message.startswith(expected)
        assert (ended.status, ended.failed) == (2, True)
    folder = tmp_path / "twice"  # two Ctrl-C to process 0: it ends without saving, after 1 has lost it
    failures = {0: failure(folder, 0, 130, {}), 1: failure(folder, 1, 2, lost)}
    (folder / "0" / "stopped").write_text("2 ")
    os.utime(folder / "1" / "error.json", (1, 1))
    ended = _ended(failures, 2, folder)
    assert (ended.status, ended.message) == (130, "process 0 of 2 was stopped by SIGINT")
    intended = _ended({0: failure(tmp_path / "end", 0, 143, {})}, 1, tmp_path / "end")  # stopped by SIGTERM, and saved
    assert (intended.status, intended.failed, intended.message) == (143, False, "")
