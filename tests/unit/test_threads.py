"""The environment that torch's threads get, and the cores of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rcnn import threads


def group(folder: Path, **files: str) -> Path:
    """A folder of control-group files; `__` in a name stands for a folder."""
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("cpu_", "cpu.")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu_max": "200000 100000\n"}, 2),
        ({"cpu_max": "150000 100000\n"}, 1),
        ({"cpu_max": "20000 100000\n"}, 1),
        ({"cpu_max": "9900000 100000\n"}, 8),
        ({"cpu_max": "max 100000\n"}, 8),
        ({"cpu_max": "damaged"}, 8),
        ({"cpu__cpu_cfs_quota_us": "300000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 3),
        ({"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_of_a_container(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert threads.available_cores(group(tmp_path, **files)) == cores


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    environment: dict[str, str] = {}
    threads.prepare(environment)
    assert environment == {**threads.SPINNING, "OMP_NUM_THREADS": "2"}
    environment = {"OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "7"}
    threads.prepare(environment)
    assert environment == {**threads.SPINNING, "OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "7"}
    environment = {"OMP_WAIT_POLICY": "active"}
    threads.prepare(environment)
    assert environment == {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    environment = {}
    threads.prepare(environment)
    assert "OMP_NUM_THREADS" not in environment


def test_importing_rcnn_sets_it_before_torch_is_imported() -> None:
    code = "import sys, os, rcnn; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", threads.SPINNING["GOMP_SPINCOUNT"]]
