"""`rcnn doctor` on machines that are unlike the one of the tests."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from tests.command import rcnn


def test_an_apple_gpu_and_a_source_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("RCNN_OFFLINE", "1")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert rcnn("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "gpu                Apple   (use it with --device mps; auto is the CPU)" in lines
    assert not any(line.startswith("extra:") for line in lines)
