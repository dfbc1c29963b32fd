"""Values of several possible types as the one type that a test expects; the test fails on any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def present(value: T | None) -> T:
    """`value`, which is not None."""
    assert value is not None
    return value


def instance(value: object, kind: type[T]) -> T:
    """`value`, which is of type `kind`."""
    assert isinstance(value, kind), f"got {type(value).__name__}, expected {kind.__name__}"
    return value


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses, ()."""
    return torch.stack(list(losses.values())).sum()


def save_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """As `np.savez(path, **arrays)`, which does not type-check: a name could be that of an option."""
    save: Callable[..., None] = np.savez_compressed if compressed else np.savez
    with path.open("wb") as file:  # numpy would add .npz to the name
        save(file, **arrays)
