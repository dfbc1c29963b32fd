"""Kill a training run at random moments, resume it, and compare the run folder with that of an uninterrupted run.

    python benchmarks/kill_resume.py --kills 200

Each run of the tiny data set (12 steps, 4 evaluations, 2 worker processes) is a process of its own and is killed with
SIGKILL at random moments, up to 3 times, before it is resumed to its end. Everything in the run folder but times must
be equal: weights, optimizer state, log, evaluations and best/. Prints `200 of 200 equal`; exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tests.faults.killed_runs import WORDS, TinyRun, contents, differences  # noqa: E402
from tests.tiny_data import write_tiny_coco  # noqa: E402

STEPS = ("train.steps=12", "train.evaluate_every=3", "train.checkpoint_every=2", "train.workers=2")
WORST = 3  # kills of one run
FORK = multiprocessing.get_context("fork")


def run(data: Path, output: Path, errors: Path, resume: bool) -> None:
    """Run, or resume, the tiny run in `output`; messages go to the file `errors`."""
    with errors.open("w") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    TinyRun(data, output, (*WORDS, *STEPS))(resume=resume)


def start(data: Path, output: Path, *, resume: bool) -> ForkProcess:
    """A process that does so: forked from this one, which has imported PyTorch already."""
    process = FORK.Process(target=run, args=(data, output, data.parent / "errors.txt", resume))
    process.start()
    return process


def finish(process: ForkProcess, data: Path) -> str:
    """What went wrong in a process that should end by itself; empty if nothing did."""
    process.join(timeout=600)
    if process.exitcode is None:
        process.kill()
        return "did not end within 600 seconds"
    return "" if process.exitcode == 0 else (data.parent / "errors.txt").read_text().strip()[-500:]


def kill_and_resume(data: Path, output: Path, kills: int, seconds: tuple[float, float]) -> tuple[int, str]:
    """Kill a run up to `kills` times, then let it end: the number of kills that met it alive, and what went wrong."""
    met = 0
    for attempt in range(kills):
        process = start(data, output, resume=attempt > 0)
        time.sleep(random.uniform(*seconds))
        met += process.is_alive()
        process.kill()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            return met, f"status {process.exitcode}"
    return met, finish(start(data, output, resume=True), data)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="Kills that meet a run alive.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments.")
    options = parser.parse_args()
    random.seed(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_tiny_coco(folder / "data", {"train": 5, "val": 2}, size=(64, 96))
        began = time.monotonic()
        if problem := finish(start(data, folder / "whole" / "run", resume=False), data):
            print(problem)
            return 1
        duration = time.monotonic() - began
        expected = contents(folder / "whole" / "run")
        done = equal = number = 0
        while done < options.kills:
            number += 1
            output = folder / str(number) / "run"
            wanted = min(options.kills - done, random.randint(1, WORST))
            met, problem = kill_and_resume(data, output, wanted, (0, duration))
            found = [problem] if problem else differences(expected, contents(output))
            done += met
            if found:
                print(f"run {number}, killed {met} times: {found[:3]}", flush=True)
            else:
                equal += met
            shutil.rmtree(output.parent, ignore_errors=True)
            print(f"\r{equal} of {done} equal so far", end="", file=sys.stderr, flush=True)
        print(f"\n{equal} of {done} equal ({number} runs)")
        return 0 if equal == done else 1


if __name__ == "__main__":
    sys.exit(main())
