"""Finds what makes a program wait for the GPU, or gives it shapes that depend on data, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import override

M = TypeVar("M", bound=nn.Module)

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.item}
VARIABLE_SHAPES = {
    aten.nonzero,
    aten.masked_select,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.bincount,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class NoSyncs(TorchDispatchMode):
    """An error for each operation that waits for the device or gives a shape that depends on values.

    These are `.item()`, `nonzero` and the like, indexing with bools, and copies from one kind of device to another,
    in both directions: a copy to the GPU from pageable memory waits, and a CUDA graph cannot record it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Check an operation, and run it."""
        self.operations += 1
        operation = func.overloadpacket
        on_gpu = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor) and not value.is_cpu]
        if operation in READS and on_gpu:
            raise AssertionError(f"{func} reads a value from the device")
        if operation in VARIABLE_SHAPES:
            raise AssertionError(f"the shape of the result of {func} depends on values")
        if operation in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            raise AssertionError(f"{func} indexes with bools: the shape depends on values")
        if operation is aten.repeat_interleave and not (kwargs or {}).get("output_size"):
            raise AssertionError(f"{func} without output_size: the shape depends on values")
        result = func(*args, **(kwargs or {}))
        if operation in (aten._to_copy, aten.copy_):
            source = args[1] if operation is aten.copy_ else args[0]
            if source.is_cpu != result.is_cpu:
                raise AssertionError(f"{func} copies from {source.device} to {result.device}")
        return result


def on_fake_gpu(values: Any, mode: FakeTensorMode, device: str = "cuda") -> Any:
    """A pytree with its tensors replaced by fake tensors of the same shape on `device`, without values."""

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        with mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

    return tree_map(fake, values)


def module_on_fake_gpu(module: M, mode: FakeTensorMode, device: str = "cuda") -> M:
    """The module, changed in place: parameters and buffers become fake tensors on `device`."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(on_fake_gpu(parameter.detach(), mode, device), parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, on_fake_gpu(buffer, mode, device))
    return module
