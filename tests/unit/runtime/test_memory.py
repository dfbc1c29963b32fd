"""Memory that this process used."""

from __future__ import annotations

import sys

import pytest
import torch

from rcnn.runtime.memory import most_memory


def test_the_peak_is_not_known_where_python_has_no_module_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    assert (most_memory(torch.device("cpu")) or 0) > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert most_memory(torch.device("cpu")) is None
