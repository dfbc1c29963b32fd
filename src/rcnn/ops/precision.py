"""The precision that values are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """float32 values for half precisions; float64 stays, so that a detector in float64 is computed in float64."""
    return values if values.dtype == torch.float64 else values.float()
