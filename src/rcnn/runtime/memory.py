"""Memory: how much is free on this machine, and how much a computation uses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|bad alloc|Storage size calculation overflowed", re.IGNORECASE
)  # as torch says it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, of torch or of onnxruntime, says that the memory of the machine or of a GPU was not enough."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    is_native = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return is_native and OUT_OF_MEMORY.search(str(error)) is not None


def free_memory() -> int:
    """Bytes that this process can still allocate: those of the machine, or of the container if fewer (Linux)."""
    machine = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return min([machine, *_free_in_container(Path("/sys/fs/cgroup"))])


def _free_in_container(group: Path) -> list[int]:
    """The free bytes within the limit of a container (cgroup v2, v1), if it has one."""
    for limit, usage, details in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with suppress(OSError, ValueError):  # ValueError: "max", no limit
            used = int((group / usage).read_text())
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", (group / details).read_text(), re.MULTILINE)
            return [int((group / limit).read_text()) - used + (int(cache[1]) if cache else 0)]
    return []


def measures_peaks() -> bool:
    """Whether `peak_memory` works here."""
    return REFERENCES.exists()


def peak_memory(compute: Callable[[], object]) -> int:
    """The largest number of bytes that this process holds while `compute` runs (Linux)."""
    REFERENCES.write_text("5")  # resets the peak, VmHWM, to the current value
    compute()
    return _kilobytes(STATUS, "VmHWM")


def held_memory() -> int:
    """The number of bytes that this process holds (Linux)."""
    return _kilobytes(STATUS, "VmRSS")


def most_memory(device: torch.device) -> int | None:
    """The peak memory so far, bytes: of tensors on a GPU, or of this process on the CPU (None on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _kilobytes(path: Path, name: str) -> int:
    """The value of the line `name` in `path`, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{path} has no line {name}")
    return 1024 * int(found[1])
