"""Peak memory of a subject, measured in a new process, because memory that another subject has freed would count."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rcnn.bench.clock import Clock
from rcnn.bench.subjects import Request

CALLS = 2
STATUS = Path("/proc/self/status")


def peak_memory_of(request: Request, name: str, file: bytes) -> float | None:
    """Peak memory of two calls with one image, in MiB: of the process, or of the GPU if the model runs there.

    None, with a warning, if the process fails, e.g. because memory runs out; the benchmark continues.
    """
    with tempfile.NamedTemporaryFile(suffix=".image") as image:
        image.write(file)
        image.flush()
        words = json.dumps({"request": asdict(request), "name": name, "image": image.name})
        # -P: modules in the current folder must not be imported in place of Python's own
        command = [sys.executable, "-P", "-c", "from rcnn.bench.memory import main; main()", words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        warnings.warn(f"the peak memory of {name} was not measured: {reason}", stacklevel=2)
        return None
    return float(done.stdout.split()[-1])


def main() -> None:
    """The main function of the process; prints the peak memory in MiB."""
    values = json.loads(sys.argv[1])
    given: dict[str, Any] = values["request"]
    request = Request(
        model=given["model"], overrides=tuple(given["overrides"]), device=given["device"], allow=tuple(given["allow"])
    )
    subject, device = request.subject(values["name"]), torch.device(request.device)
    for _ in range(CALLS):
        subject([Path(values["image"]).read_bytes()], Clock(device))
    print(peak_memory(device))


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process, or of a GPU, in MiB. On Linux, `ru_maxrss` would include the parent process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if STATUS.exists():
        line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
