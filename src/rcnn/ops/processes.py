"""The divisor of a loss if several processes share a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def loss_normalizer(count: Tensor) -> Tensor:
    """The number () of samples that a loss is divided by: the mean of `count` over all processes.

    Each process divides the sum of its own losses by the result. Then the mean of the losses over the processes, and so
    of their gradients, equals that of one process with the whole batch, even if a process has no sample. If no process
    has a sample, the total of the counts is set to 1, so that the loss is 0 and not 0 / 0. Every process of the default
    group must call this. With one process, the result is `count`, at least 1.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count.clamp(min=1)
    total = count.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()
