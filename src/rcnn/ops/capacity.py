"""How much of a fixed capacity is in use, where knowing it costs nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def live_prefix(valid: Tensor) -> int:
    """How many leading places of a row of `valid` (B, N) bool may be real; work on the others can be left out.

    All N of them when compiled, exported, traced or on an accelerator, where reading a value would break the graph or
    wait for the device; in eager mode on the CPU the true maximum over the rows, at least 1 (0 when N is 0).
    Results never depend on it: it only saves the work on padding.
    """
    capacity = valid.shape[1]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(valid) is not Tensor
    if traced or valid.device.type != "cpu" or capacity == 0 or valid.shape[0] == 0:
        return capacity
    used = valid.any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
