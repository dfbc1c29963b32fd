"""Tensors that stay in their file until they are asked for, one at a time, with limits on what a file may claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOM = 1 << 30  # bytes that any file may claim to hold, however small it is ...
FOLD = 16  # ... and how many times its own size more: trained weights hardly compress at all
# numpy's code, without its byte order -> torch's type; texts have none
TYPES = {
    "b1": torch.bool, "i1": torch.int8, "u1": torch.uint8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "c8": torch.complex64, "c16": torch.complex128,
}  # fmt: skip


class Damaged(ValueError):
    """The file is not whole, or contradicts itself; whoever opened it adds its name."""


class Refused(ValueError):
    """What the file asks for is not done, whoever asks; whoever opened it adds its name."""


class ForeignName(Refused):
    """A function or class by name that is none of arrays and tensors."""


@dataclass(frozen=True)
class Stored:
    """An array of a file, not read yet."""

    shape: tuple[int, ...]
    kind: str  # numpy's code without byte order (f4), or torch's own word (bfloat16)
    nbytes: int  # when read
    read: Callable[[], Tensor | np.ndarray]  # raises Damaged


def numpy_kind(dtype: np.dtype) -> str:
    """The code of a numpy type (f4); Refused for objects, records and dates, which are no weights."""
    if dtype.hasobject or dtype.kind not in "biufcSU" or dtype.shape or dtype.names:
        raise Refused(f"a numpy array of {dtype}, which is neither numbers nor text")
    return f"{dtype.kind}{dtype.itemsize}"


def stored_array(shape: tuple[int, ...], dtype: np.dtype, order: str, read: Callable[[], Any]) -> Stored:
    """The array whose bytes `read` gives; `order` C or F. Damaged, when read, where there are fewer or more."""
    require_shape(shape)
    nbytes = math.prod(shape) * dtype.itemsize

    def array() -> np.ndarray:
        content = read()
        if len(content) != nbytes:
            raise Damaged(f"an array of {shape} {dtype} has {len(content)} bytes, want {nbytes}")
        values = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")
        values = np.ascontiguousarray(values, dtype=dtype.newbyteorder("=")).reshape(shape)
        return values if values.flags.writeable else values.copy()

    return Stored(shape, numpy_kind(dtype), nbytes, array)


def require_shape(shape: tuple[int, ...]) -> None:
    """Damaged unless `shape` is that of an array which a machine of today could hold."""
    if len(shape) > 32 or not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) >= 1 << 48:
        shown = f"{len(shape)} axes" if len(shape) > 32 else f"shape {shape}"[:200]
        raise Damaged(f"an array has {shown}: no weights have")


def require_room(claimed: int, size: int) -> None:
    """Refused where a file of `size` bytes claims to hold `claimed` bytes of arrays, as a bomb does."""
    if claimed > ROOM + FOLD * size:
        raise Refused(f"{claimed / 1e9:.1f} GB of memory for a file of {size / 1e6:.2f} MB, as no weights do (a bomb?)")


def loaded(value: Any, depth: int = 0) -> Any:
    """`value` with the arrays in it read: numpy's as numpy's, torch's as tensors. Refused where it is too deep."""
    if depth > 30:
        raise Refused("containers more than 30 deep")
    if isinstance(value, Stored):
        return value.read()
    if isinstance(value, dict):
        return {key: loaded(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(loaded(each, depth + 1) for each in value)
    return value


class LazyState(Mapping[str, Tensor]):
    """Named tensors, each read when it is asked for: float32 where it was any real number, else as it was.

    Reading raises ValueError that names the file and the tensor.
    """

    def __init__(self, stored: Mapping[str, Stored], source: str) -> None:
        self._stored, self._source = dict(stored), source

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        try:
            value = stored.read()
        except (Damaged, OSError, EOFError) as error:
            raise ValueError(f"{self._source}: {name} cannot be read ({error}): copy the file again") from error
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(value)
        if tensor.is_complex():
            raise ValueError(f"{self._source}: {name} holds complex numbers, which no weights here are")
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def without(self, names: Collection[str]) -> LazyState:
        """The same without the tensors of these `names`."""
        unwanted = set(names)
        kept = {name: stored for name, stored in self._stored.items() if name not in unwanted}
        return LazyState(kept, self._source)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor `name`, without reading it."""
        return self._stored[name].shape

    def kind(self, name: str) -> str:
        """Type of tensor `name` as the file has it: numpy's code (f4) or torch's word (bfloat16)."""
        return self._stored[name].kind


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of tensor `name`; one that lies in a file is not read for it."""
    return state.shape(name) if isinstance(state, LazyState) else tuple(state[name].shape)
