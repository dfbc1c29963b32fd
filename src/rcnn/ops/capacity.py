"""How much of a fixed capacity is in use, where reading it does not wait for a device."""

from __future__ import annotations

from torch import Tensor

from rcnn.ops.tracing import is_traced


def valid_prefix(valid: Tensor) -> int:
    """Number of leading columns of `valid` (B, N) bool that can contain a valid entry; the others can be skipped.

    This is N when compiled, exported, traced or on an accelerator, where reading a value would break the graph or wait
    for the device. In eager mode on the CPU it is the maximum over the rows, at least 1 (0 if N is 0). Results do not
    depend on it: it only saves work on padding.
    """
    capacity = valid.shape[1]
    if is_traced(valid) or valid.device.type != "cpu" or capacity == 0 or valid.shape[0] == 0:
        return capacity
    used = valid.any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
