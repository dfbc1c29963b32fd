"""Two to four processes that are killed, stopped for a while or kept waiting for data at random: no step is lost.

`pytest -m exhaustive tests/faults/test_random_faults.py` runs 20 seeds.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data.loading import TrainingBatch
from rcnn.training import run as training_run
from rcnn.training.log import read_log
from rcnn.training.request import RunRequest
from rcnn.training.run import execute, plan_training
from rcnn.training.state import read_state
from rcnn.weights.checkpoint import load_checkpoint
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.process_runs import errors_in, start, started

STEPS = 6
WORDS = (
    *TINY_MODEL,
    f"train.steps={STEPS}",
    "train.batch_size=1",
    "train.workers=0",
    "train.log_every=1",
    "train.warmup_steps=1",
    "train.checkpoint_every=1",
    "train.evaluate_every=3",
    "train.pictures=0",
    "train.trackers=[]",
    "train.watchdog=60",
)
REPORTED = 30  # seconds after a kill until the others have ended
PATIENCE = 300  # seconds for everything else, because the machine may be busy
STARVED = 0.3  # seconds that each batch of one process comes late


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 7, "val": 3}, size=(64, 96))


def train(data: Path, output: Path, starved: int, rank: int) -> None:
    """The part of one process in a run that continues what is in `output`; that of rank `starved` gets late data."""
    torch.set_num_threads(1)
    if rank == starved:
        training_run.prefetched = late  # type: ignore[assignment]
    request = RunRequest(
        model="mask_rcnn_compact", data=data, output=output, overrides=WORDS, device="cpu", resume=True
    )
    # the first line comes when all processes are connected
    execute(plan_training(request, lambda line: None), log=lambda line: connected(output).touch())


def connected(output: Path) -> Path:
    """A file that exists when the processes of the run `output` are connected."""
    return output.parent / "connected"


def late(stream: Iterator[TrainingBatch], device: torch.device) -> Generator[TrainingBatch, None, None]:
    for batch in stream:
        time.sleep(STARVED)
        yield batch


def wait(met: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def ended(processes: list[BaseProcess]) -> bool:
    return not any(process.is_alive() for process in processes)


def attempt(chance: random.Random, run: Callable[[int], Callable[[int], None]], count: int, output: Path) -> str:
    """Start the processes, and disturb them at a random moment: the kind of the fault, "" if they ended before it."""
    fault, victim = chance.choice(("kill", "stop", "starve")), chance.randrange(count)
    before = len(read_log(output / "log.jsonl"))
    connected(output).unlink(missing_ok=True)
    processes = start(count, output.parent, run(victim if fault == "starve" else -1))
    try:
        lines = before + chance.randrange(4)
        wait(lambda: len(read_log(output / "log.jsonl")) >= lines or ended(processes), PATIENCE, "no step")
        time.sleep(chance.uniform(0, 0.2))
        if fault == "kill":
            # before they are connected, processes cannot know of one that was killed: their launcher ends them
            for process in [processes[victim]] if connected(output).exists() else processes:
                process.kill()
            wait(lambda: ended(processes), REPORTED, "a process outlives one that was killed")
        elif fault == "stop" and (pid := processes[victim].pid) is not None and processes[victim].is_alive():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0.2, 1))
            os.kill(pid, signal.SIGCONT)
        wait(lambda: ended(processes), PATIENCE, "the run hangs")
    finally:
        for process in processes:
            process.kill()
            process.join()
    killed = fault == "kill" and processes[victim].exitcode == -signal.SIGKILL
    if not killed:
        assert [process.exitcode for process in processes] == [0] * count, errors_in(output.parent)
    return fault if killed or fault != "kill" else ""


def contents(output: Path) -> dict[str, Any]:
    """Whatever must not depend on the faults."""
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(output / "log.jsonl")]
    state = read_state(output / "last")
    return {"log": log, "weights": load_checkpoint(output / "last").state, "optimizer": state["optimizer"]["state"]}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(1, 20))])
def test_faults_at_random_lose_no_step(data: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    count = 2 + seed % 3
    whole, output = tmp_path / "whole" / "run", tmp_path / "disturbed" / "run"
    started(count, whole.parent, partial(train, data, whole, -1))
    done: list[str] = []
    while not (output / "last").exists() or read_state(output / "last")["step"] < STEPS:
        done.append(attempt(chance, lambda victim: partial(train, data, output, victim), count, output))
        assert len(done) < 20, done
    started(count, output.parent, partial(train, data, output, -1))  # an evaluation may be left
    torch.testing.assert_close(contents(output), contents(whole), rtol=1e-3, atol=1e-4)
