"""Batch norm over padded regions: only the valid ones count in the statistics."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def masked_batch_norm(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor, valid: Tensor) -> Tensor:
    """Training-mode batch norm of the maps `x` (N, C, H, W); only rows where `valid` (N,) count in the statistics.

    The other rows are normalized with the same statistics. If no row is valid, the running statistics do not change.
    """
    weight = valid[:, None, None, None].float()  # (N, 1, 1, 1)
    together = isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized()

    def total(values: Tensor) -> Tensor:
        return all_reduce(values) if together and dist.get_world_size() > 1 else values  # differentiable

    values = x.float()
    sums = total(torch.cat([(values * weight).sum((0, 2, 3)), (valid.sum() * values[0, 0].numel()).float()[None]]))
    count = sums[-1].clamp(min=1)
    mean = sums[:-1] / count  # (C,)
    centred = values - mean[:, None, None]
    variance = total((centred.square() * weight).sum((0, 2, 3))) / count
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            step = (norm.momentum or 0.0) * (sums[-1] > 0)
            norm.running_mean.copy_(torch.lerp(norm.running_mean, mean, step))
            unbiased = variance * count / (count - 1).clamp(min=1)
            norm.running_var.copy_(torch.lerp(norm.running_var, unbiased, step))
            norm.num_batches_tracked.add_(1)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centred * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)
