"""Checks every CUDA path against its reference, and measures it, in under 8 minutes on a GPU.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

Needs the repository, torch, triton and torchvision, no data and no weights. Prints one table; writes JSON. Exit code 1
if a check fails. --dry-run does the same with tiny sizes on the CPU, to show that the script works.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_kernels import cases, on_device, outputs
from gpu_loader import prefetch_check
from gpu_models import compiled_checks, inference_rows, sync_checks, training_rows
from gpu_report import Report, table


def kernel_checks(report: Report) -> None:
    """Each op on the device against its reference on the CPU; its time, and that of a peer."""
    for case in cases(report.tiny):
        arguments = on_device(case.arguments, report.device)
        with report.checking(f"op {case.name}"):
            found = outputs(case, arguments)
            expected = outputs(case, on_device(case.arguments, torch.device("cpu")))
            for ours, reference in zip(found, expected, strict=True):
                _assert_close(ours.cpu(), reference, case.tolerance)
        values = on_device(case.arguments, report.device)
        report.measure(f"op {case.name}", lambda case=case, values=values: case.op(*values))
        if case.gradient:
            report.measure(
                f"op {case.name}, forward and backward",
                lambda case=case, arguments=arguments: outputs(case, arguments),
            )
        if case.peer is not None:
            peer = case.peer
            report.measure(f"op {case.name}, torchvision", lambda peer=peer, values=values: peer(*values))


def _assert_close(ours: Tensor, reference: Tensor, tolerance: float) -> None:
    largest = float(reference.abs().max()) if reference.is_floating_point() else 1.0
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance * max(1.0, largest))


def device_name(device: torch.device) -> str:
    """What the figures were taken on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def main() -> None:
    """Checks first, then kernels, then whole models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=7.0, help="nothing new is measured after this time")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --dry-run shows on the CPU that this script works")
    report = Report(
        device=torch.device("cpu" if options.dry_run else "cuda"),
        deadline=time.monotonic() + 60 * options.minutes,
        tiny=options.dry_run,
    )
    with torch.random.fork_rng():
        kernel_checks(report)
        sync_checks(report)
        if report.device.type == "cuda":  # on a CPU, nothing is pinned or copied
            prefetch_check(report)
        compiled_checks(report)
        inference_rows(report)
        training_rows(report)
    print(table(report))
    values: dict[str, Any] = {
        "command": "python benchmarks/gpu.py" + (" --dry-run" if options.dry_run else ""),
        "device": device_name(report.device),
        **{name: version(name) for name in ("torch", "torchvision")},
        "checks": report.checks,
        "milliseconds": report.milliseconds,
        "not_measured": report.left_out,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(values, indent=2) + "\n")
    sys.exit(any(result != "ok" for result in report.checks.values()))


if __name__ == "__main__":
    main()
