"""Fair timing of peers: alternating in one process, medians; peak memory in separate processes; machine data."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def alternate(peers: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, dict[str, float]]:
    """Seconds of each peer, called alternately so that a busy machine is busy for all: median, lowest and highest."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(warmup + repeats):
        for name, call in peers.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values), "repeats": repeats}
        for name, values in times.items()
    }


def peak_memory() -> float:
    """Peak memory of this process in MiB; `ru_maxrss` would be inherited from the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def in_a_process(script: str, *arguments: str) -> dict[str, Any]:
    """The last line that `script` prints, as JSON, when run with `arguments` in a separate process."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": torch.cpu._is_avx512_bf16_supported(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "rcnn")},
    }


def write(name: str, command: str, values: dict[str, Any]) -> Path:
    """Write `results/name.json`: the figures, the command that produced them, and the machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command, "machine": machine(), **values}, indent=2) + "\n")
    return path
