"""Batch norm over padded regions and over several processes; only valid regions count in the statistics."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from rcnn.ops.precision import at_least_float32


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of the batches of all processes; with one process, `nn.BatchNorm2d`.

    Unlike torch's `nn.SyncBatchNorm`, it also works on a CPU.
    """

    # what torch's forward needs, which is called on CUDA
    process_group: dist.ProcessGroup | None = None  # the default group
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not _several_processes():
            return super().forward(input)
        if input.device.type == "cuda":
            return nn.SyncBatchNorm.forward(cast("nn.SyncBatchNorm", self), input)
        return masked_batch_norm(self, input, torch.ones(len(input), dtype=torch.bool, device=input.device))


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes; the gradient is summed in the same way."""

    @staticmethod
    @override
    def forward(ctx: Any, values: Any, **kwargs: Any) -> Any:  # type: ignore[bad-override]
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        total = grad_outputs[0].clone()
        dist.all_reduce(total)
        return total


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def masked_batch_norm(norm: nn.BatchNorm2d, x: Tensor, valid: Tensor) -> Tensor:
    """Training-mode batch norm of the maps `x` (N, C, H, W); only rows where `valid` (N,) count in the statistics.

    The other rows are normalized with the same statistics. If no row is valid, the running statistics do not change.
    """
    weight = valid[:, None, None, None].to(at_least_float32(x).dtype)  # (N, 1, 1, 1)
    together = isinstance(norm, SyncBatchNorm2d) and _several_processes()

    def total(values: Tensor) -> Tensor:
        return _Total.apply(values) if together else values

    values = at_least_float32(x)
    sums = total(torch.cat([(values * weight).sum((0, 2, 3)), (weight.sum() * values[0, 0].numel())[None]]))
    count = sums[-1].clamp(min=1)
    mean = sums[:-1] / count  # (C,)
    centred = values - mean[:, None, None]
    variance = total((centred.square() * weight).sum((0, 2, 3))) / count
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            step = (norm.momentum or 0.0) * (sums[-1] > 0).to(mean.dtype)
            norm.running_mean.copy_(torch.lerp(norm.running_mean, mean, step))
            unbiased = variance * count / (count - 1).clamp(min=1)
            norm.running_var.copy_(torch.lerp(norm.running_var, unbiased, step))
            norm.num_batches_tracked.add_(1)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centred * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)
