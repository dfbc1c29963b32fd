"""Kill a training run at random moments, resume it, and compare the run folder with that of an uninterrupted run.

    python benchmarks/kill_resume.py --kills 200

Each run of the tiny data set (12 steps, 4 evaluations, 2 worker processes) is a process of its own and is killed with
SIGKILL at random moments, up to 3 times, before it is resumed to its end. Everything in the run folder but times must
be equal: weights, optimizer state, log, evaluations and best/. Prints `200 of 200 equal`; exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.killed_runs import WORDS, contents, differences  # noqa: E402
from tests.tiny_data import write_tiny_coco  # noqa: E402

STEPS = ("train.steps=12", "train.evaluate_every=3", "train.checkpoint_every=2", "train.workers=2")
WORST = 3  # kills of one run


def start(data: Path, output: Path, *, resume: bool) -> subprocess.Popen[str]:
    """A process that runs, or resumes, the tiny run in `output`."""
    code = (
        "import sys; from pathlib import Path; from tests.faults.killed_runs import TinyRun\n"
        "TinyRun(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[4:]))(resume=sys.argv[3] == 'resume')"
    )
    words = ["resume" if resume else "start", *WORDS, *STEPS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-c", code, str(data), str(output), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """What went wrong in a process that should end by itself; empty if nothing did."""
    try:
        _, errors = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        return "did not end within 600 seconds"
    return "" if process.returncode == 0 else errors.strip()[-500:]


def kill_and_resume(data: Path, output: Path, kills: int, seconds: tuple[float, float]) -> tuple[int, str]:
    """Kill a run up to `kills` times, then let it end: the number of kills that met it alive, and what went wrong."""
    met = 0
    for attempt in range(kills):
        process = start(data, output, resume=attempt > 0)
        time.sleep(random.uniform(*seconds))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            met += 1
        process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            return met, f"status {process.returncode}"
    return met, finish(start(data, output, resume=True))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="Kills that meet a run alive.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments.")
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_tiny_coco(folder / "data", {"train": 5, "val": 2}, size=(64, 96))
        began = time.monotonic()
        if problem := finish(start(data, folder / "whole" / "run", resume=False)):
            print(problem)
            return 1
        duration = time.monotonic() - began
        expected = contents(folder / "whole" / "run")
        done = equal = number = 0
        while done < options.kills:
            number += 1
            output = folder / str(number) / "run"
            wanted = min(options.kills - done, random.randint(1, WORST))
            met, problem = kill_and_resume(data, output, wanted, (0.3 * duration, duration))
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
