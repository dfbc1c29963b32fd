"""Environment variables for the number of CPU threads and for how they wait; torch reads them when it is imported.

OpenMP threads that wait for each other spin for milliseconds before they sleep. If other programs use the cores, the
thread that the others wait for cannot run: two threads were four times slower than one (benchmarks/NOTES.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# GNU's OpenMP: spin rounds, about 10 microseconds; Intel's and LLVM's: milliseconds
SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
NUMBER = "OMP_NUM_THREADS"
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit how long threads spin, and in a container their number to the available cores.

    Variables that the user has set do not change. It has no effect after torch is imported.
    """
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in SPINNING.items():
            environment.setdefault(name, value)
    if NUMBER not in environment and (cores := available_cores()) < usable_cores():
        environment[NUMBER] = str(cores)


def set_by_user(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set the number of threads, and to another number than `prepare` sets."""
    cores = available_cores()
    return environment.get(NUMBER) not in (None, "", str(cores) if cores < usable_cores() else None)


def per_process(processes: int) -> int:
    """Threads of each of several processes if they share the cores."""
    return max(1, available_cores() // processes)


def usable_cores() -> int:
    """Number of cores on which this process may run; torch uses as many threads by default."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores(groups: Path = CONTROL_GROUPS) -> int:
    """`usable_cores()`, limited by the CPU quota of a container (`docker run --cpus 2`), rounded down, at least 1."""
    quota = _quota(groups)
    return usable_cores() if quota is None else max(1, min(usable_cores(), int(quota)))


def _quota(groups: Path) -> float | None:
    """CPU seconds per second that the control group of this process may use; None: no limit is known."""
    try:
        if (groups / "cpu.max").exists():  # version 2: "200000 100000" or "max 100000"
            quota, period = (groups / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
