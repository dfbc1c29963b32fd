"""benchmarks/gpu.py runs on the CPU with tiny sizes, so that it works on the day when there is a GPU."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_shell_script_is_valid() -> None:
    done = subprocess.run(["bash", "-n", str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
