"""What benchmarks/gpu.py has checked and measured so far, and its table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

REPEATS = 20


@dataclass(kw_only=True)
class Report:
    """What was checked and measured so far."""

    device: torch.device
    deadline: float  # of time.monotonic(): what has not started by then is left out, and said so
    tiny: bool
    checks: dict[str, str] = field(default_factory=dict)  # "ok", or what is wrong
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Record whether the block raises an error."""
        try:
            yield
            self.checks[name] = "ok"
        except Exception as error:  # the other checks still run
            self.checks[name] = f"{type(error).__name__}: {str(error).strip()[:400]}"
        print(f"{name:<60} {self.checks[name]}", flush=True)

    def measure(self, name: str, call: Callable[[], object], repeats: int = REPEATS) -> None:
        """Record the median time of `call`, unless the time is up."""
        if time.monotonic() > self.deadline:
            self.left_out.append(name)
            return
        try:
            start = time.monotonic()
            call()
            self.wait()
            first = time.monotonic() - start  # with compilation
            times = [self.once(call) for _ in range(1 if self.tiny else repeats)]
            self.milliseconds[name] = statistics.median(times) * 1000
            print(f"{name:<60} {self.milliseconds[name]:10.3f} ms   (first call {first:.1f} s)", flush=True)
        except Exception as error:  # out of memory, for one: the other rows still run
            self.left_out.append(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}")
            print(f"{name:<60} {self.left_out[-1]}", flush=True)

    def once(self, call: Callable[[], object]) -> float:
        """Seconds of one call, with all its work on the device."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def table(report: Report) -> str:
    """One line per figure; below, the checks that failed and what was left out."""
    lines = [f"| {'what':<60} | {'ms':>10} |", f"|{'-' * 62}|{'-' * 12}|"]
    lines += [f"| {name:<60} | {value:>10.3f} |" for name, value in report.milliseconds.items()]
    failed = {name: result for name, result in report.checks.items() if result != "ok"}
    lines.append(f"{len(report.checks) - len(failed)} of {len(report.checks)} checks passed")
    lines += [f"FAILED {name}: {result}" for name, result in failed.items()]
    lines += [f"not measured: {name}" for name in report.left_out]
    return "\n".join(lines)
