"""Memory layout of maps that are flattened."""

from __future__ import annotations

import torch
from torch import Tensor


def contiguous(x: Tensor) -> Tensor:
    """`x` in the order of its axes in memory, so that neighbouring axes can be flattened; also when compiled.

    torch.compile predicts the strides of a convolution's output, but oneDNN may choose others, depending on the
    processor. Then `x.contiguous()` is optimized away and the `view` that follows fails; a clone with an explicit
    layout does not.
    """
    if torch.compiler.is_compiling():
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous()
