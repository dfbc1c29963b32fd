"""What a loss is divided by where several processes share a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def mean_count(count: Tensor) -> Tensor:
    """The number () of samples that a loss is divided by: the mean of `count` over all processes, at least 1 in all.

    Each process divides its own sum by it. The mean of these losses over the processes, and so of their gradients, is
    then that of one process with the batch of all of them, also where one process has no sample. Every process of the
    default group must call it. With one process it is `count`, at least 1.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count.clamp(min=1)
    total = count.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()
