"""The machine on which a benchmark was measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from rcnn import __version__
from rcnn.threads import usable_cores

SAME = ("device", "cores", "threads")  # benchmarks are compared only if these are equal


def machine(device: torch.device) -> dict[str, str | int]:
    """Name of the device, cores, threads and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return {
        "device": name,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "rcnn": __version__,
    }


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
