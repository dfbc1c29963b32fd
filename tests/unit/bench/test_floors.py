"""benchmarks/floors.py: which operators count as the floor of a network."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def test_convolutions_and_products_count_and_resizes_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    floors = importlib.import_module("floors")
    maps = torch.ones(1, 2, 4, 4)
    with torch.no_grad(), floors.Floor() as floor:
        F.interpolate(maps, scale_factor=2, mode="bilinear")
        F.conv2d(maps, torch.ones(3, 2, 1, 1))
        F.linear(torch.ones(2, 4), torch.ones(3, 4), torch.ones(3))
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5)).relu()
    assert set(floor.seconds) == {"convolution", "addmm", "bmm"}
