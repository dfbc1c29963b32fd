"""Opaque ops: functions that torch's compiler and exporters see as one node, registered with `torch.library`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_LIBRARY = torch.library.Library("rcnn", "FRAGMENT")


class OpaqueOp(Generic[P, R]):
    """The op `rcnn::NAME` of a function called `NAME`; it is called like the function.

    It equals the result of `torch.library.custom_op` for a function that changes no argument. `custom_op` itself is not
    used, because its first call imports torch's compiler, which takes longer than loading a model.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        name = function.__name__
        self.__doc__, self.__name__, self.__module__ = function.__doc__, name, function.__module__
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.name = f"rcnn::{name}"
        self.overload: torch._ops.OpOverload = getattr(torch.ops.rcnn, name).default

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.overload(*args, **kwargs)

    def register_fake(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorator for the function that returns empty tensors with the shapes, dtypes and layouts of the results."""
        torch.library.register_fake(self.name, function, lib=_LIBRARY)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Register the backward pass, and what the forward pass saves for it, see `torch.library.register_autograd`."""
        torch.library.register_autograd(self.name, backward, setup_context=setup_context, lib=_LIBRARY)


def opaque_op(function: Callable[P, R]) -> OpaqueOp[P, R]:
    """Decorator for a function of tensors and numbers with annotated types; it must not change its arguments."""
    return OpaqueOp(function)
