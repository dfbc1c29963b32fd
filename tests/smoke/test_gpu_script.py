"""benchmarks/gpu.py runs on the CPU with tiny sizes, so that it works on the day when there is a GPU."""

from __future__ import annotations

import importlib
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.data.loading import TrainingBatch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.compile
def test_a_dry_run_checks_and_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu.json"
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry-run", "--output", str(output)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    report = json.loads(output.read_text())
    assert set(report["checks"].values()) == {"ok"}
    assert len(report["checks"]) == 11
    assert len(report["milliseconds"]) >= 16
    assert report["not_measured"] == []
    assert "11 of 11 checks passed" in printed


def test_the_check_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal batches pass, and a changed one is found. Pinned memory and the side stream are used on a GPU only."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loader, reports = importlib.import_module("gpu_loader"), importlib.import_module("gpu_report")
    report = reports.Report(device=torch.device("cpu"), deadline=0.0, tiny=True)
    loader.prefetch_check(report)
    assert list(report.checks.values()) == ["ok"]

    def damaged(batches: Iterator[TrainingBatch], device: torch.device) -> Iterator[TrainingBatch]:
        for batch in batches:
            yield replace(batch, targets=replace(batch.targets, boxes=batch.targets.boxes + 1))

    monkeypatch.setattr(loader, "prefetched", damaged)
    loader.prefetch_check(report)
    assert list(report.checks.values()) == ["AssertionError: Targets.boxes differs"]


def test_the_shell_script_is_valid() -> None:
    done = subprocess.run(["bash", "-n", str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
