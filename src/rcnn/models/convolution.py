"""A convolution whose weight gradient is fast on x86 CPUs without AVX-512, too.

There, oneDNN computes the gradient of the weights of a 3x3 convolution 2 to 4 times more slowly from maps in
channels-last layout than from maps in PyTorch's default layout (benchmarks/NOTES.md). All else is faster in
channels-last layout, so only this gradient is computed from copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

LEAST_POSITIONS, LEAST_CHANNELS = 3000, 64  # of a map; for smaller ones the copies save little


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`F.conv2d` of the same arguments: maps (N, C, h, w) of `input` (N, C', H, W), with the same gradients."""
    if groups == 1 and tuple(stride) == (1, 1) and weight.shape[2:] == (3, 3) and gradient_needs_copies(input, weight):
        return ConvolutionWithCopies.apply(input, weight, bias, list(padding), list(dilation))
    return F.conv2d(input, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


def gradient_needs_copies(input: Tensor, weight: Tensor) -> bool:
    """Whether a gradient of `weight` will be computed here, in float32, from large maps in channels-last layout."""
    return (
        input.device.type == "cpu"
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and input.shape[2] * input.shape[3] >= LEAST_POSITIONS
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and input.is_contiguous(memory_format=torch.channels_last)
        and lacks_avx512()
    )


@cache
def lacks_avx512() -> bool:
    """Whether this is an x86 CPU with AVX2 and without AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


class ConvolutionWithCopies(torch.autograd.Function):
    """A convolution with stride 1 and one group; its weight gradient is computed from copies in the default layout."""

    @staticmethod
    @override
    def forward(  # type: ignore[bad-override]
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int], dilation: list[int]
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(input, weight, bias, 1, padding, dilation)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = grad_outputs
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        shape = ([weight.shape[0]], [1, 1], ctx.padding, ctx.dilation, False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        first = backward(gradient, input, weight, *shape, [True, False, False])[0] if of_input else None
        if not (of_weight or of_bias):
            return first, None, None, None, None
        copies = (tensor.contiguous() for tensor in (gradient, input, weight))
        _, second, third = backward(*copies, *shape, [False, of_weight, of_bias])
        return first, second, third, None, None
