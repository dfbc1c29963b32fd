"""What every test may ask for: where the shared data lie, and quiet, repeatable torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden outputs, real weights and photos that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the project's shared data (../shared beside the checkout), which the repository has not")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
