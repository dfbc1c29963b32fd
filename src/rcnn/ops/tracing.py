"""Whether an operation runs now, or is recorded in a graph."""

from __future__ import annotations

import torch
from torch import Tensor


def is_traced(value: Tensor) -> bool:
    """Whether an operation on `value` is compiled, exported or traced, so that the graph must not depend on values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or type(value) is not Tensor
