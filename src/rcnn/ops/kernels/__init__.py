"""Triton kernels, one file per op of `rcnn.ops`: the only files that import triton.

Each computes what the op's reference implementation computes, on CUDA tensors, without waiting for the device. An op
calls its kernel where `usable` says so. Tests compare each kernel with its reference in Triton's interpreter
(TRITON_INTERPRET=1), which runs on the CPU. benchmarks/gpu.sh does the same on a GPU.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from torch import Tensor


def usable(values: Tensor) -> bool:
    """Whether the kernels can compute with `values`: a CUDA tensor, where triton is installed."""
    return values.device.type == "cuda" and _is_installed()


@cache
def _is_installed() -> bool:
    return find_spec("triton") is not None
