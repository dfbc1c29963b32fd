"""Tensors that stay in their file until they are used, one at a time, with limits on what a file may claim."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

FREE_BYTES = 1 << 30  # bytes that any file may claim to hold ...
MAX_RATIO = 16  # ... plus this many times its own size: trained weights hardly compress
# numpy's code without byte order -> torch's type; text has none
TYPES = {
    "b1": torch.bool, "i1": torch.int8, "u1": torch.uint8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "c8": torch.complex64, "c16": torch.complex128,
}  # fmt: skip
Reopen = Callable[[], io.BufferedReader | io.BytesIO]  # opens the file once more


class Damaged(ValueError):
    """The file is incomplete or contradicts itself; the caller adds the name of the file."""


class Refused(ValueError):
    """The file asks for something that is never done; the caller adds the name of the file."""


class ForeignName(Refused):
    """The name of a function or class that arrays and tensors do not need."""


@dataclass(frozen=True)
class Stored:
    """An array in a file that has not been read yet."""

    shape: tuple[int, ...]
    kind: str  # numpy's code without byte order (f4), or torch's name (bfloat16)
    nbytes: int  # in memory, after reading
    read: Callable[[], Tensor | np.ndarray]  # raises Damaged


def numpy_kind(dtype: np.dtype) -> str:
    """The code of a numpy type (f4). Raises Refused for objects, records and dates."""
    if dtype.hasobject or dtype.kind not in "biufcSU" or dtype.shape or dtype.names:
        raise Refused(f"a numpy array of type {dtype}; expected numbers or text")
    return f"{dtype.kind}{dtype.itemsize}"


def stored_array(shape: tuple[int, ...], dtype: np.dtype, order: str, read: Callable[[], Any]) -> Stored:
    """An array of the bytes that `read` returns; `order` is C or F. Reading raises Damaged for a wrong byte count."""
    require_shape(shape)
    nbytes = math.prod(shape) * dtype.itemsize

    def array() -> np.ndarray:
        content = read()
        if len(content) != nbytes:
            raise Damaged(f"an array of {shape} {dtype} has {len(content)} bytes, expected {nbytes}")
        values = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")
        values = np.ascontiguousarray(values, dtype=dtype.newbyteorder("=")).reshape(shape)
        return values if values.flags.writeable else values.copy()

    return Stored(shape, numpy_kind(dtype), nbytes, array)


def file_bytes(path: Path, start: int, count: int) -> bytes:
    """`count` bytes from byte `start` of file `path`; fewer if the file ends before."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def file_part(reopen: Reopen, start: int, length: int, at: int, count: int) -> bytearray:
    """`count` bytes from byte `at` of the `length` bytes that start at byte `start` of a file. Raises Damaged."""
    if at < 0 or count < 0 or at + count > length:
        raise Damaged(f"bytes {at} to {at + count} lie outside its {length} bytes")
    with reopen() as file:
        file.seek(start + at)
        content = bytearray(count)  # not bytes: an array over a bytearray is writable without a copy
        if file.readinto(content) != count:
            raise Damaged(f"it ends inside {count} bytes that start at {at}")
    return content


def require_shape(shape: tuple[int, ...]) -> None:
    """Raise Damaged unless an array of `shape` could fit into the memory of a computer."""
    if len(shape) > 32 or not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) >= 1 << 48:
        shown = f"{len(shape)} axes" if len(shape) > 32 else f"shape {shape}"[:200]
        raise Damaged(f"an array has {shown}, which is not possible for weights")


def require_room(claimed: int, size: int, free: int = FREE_BYTES) -> None:
    """Raise Refused if `size` bytes claim to unpack to more than `free` + MAX_RATIO * `size` bytes, like a zip bomb."""
    if claimed > free + MAX_RATIO * size:
        raise Refused(f"{claimed / 1e9:.2f} GB of data in {size / 1e6:.2f} MB; no weights compress like this (a bomb?)")


class NamedFileError(ValueError):
    """A file that cannot be used. The message says which one, so that callers do not add its name."""


class LazyState(Mapping[str, Tensor]):
    """Named tensors, each read when it is used; floating-point types become float32, other types are kept.

    Reading a tensor raises NamedFileError that names the file and the tensor if it is damaged.
    """

    def __init__(self, stored: Mapping[str, Stored], source: str) -> None:
        self._stored, self._source = dict(stored), source

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        try:
            value = stored.read()
        except (Damaged, OSError, EOFError) as error:
            raise NamedFileError(f"{self._source}: {name} cannot be read ({error}): copy the file again") from error
        try:
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(value)
        except TypeError as error:  # e.g. float128
            raise NamedFileError(
                f"{self._source}: {name} has numbers of a type that PyTorch lacks ({error})"
            ) from error
        if tensor.is_complex():
            raise NamedFileError(f"{self._source}: {name} holds complex numbers; expected real weights")
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def without(self, names: Collection[str]) -> LazyState:
        """The same tensors without `names`."""
        unwanted = set(names)
        kept = {name: stored for name, stored in self._stored.items() if name not in unwanted}
        return LazyState(kept, self._source)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor `name`, without reading it."""
        return self._stored[name].shape

    def kind(self, name: str) -> str:
        """The type of tensor `name` in the file: numpy's code (f4) or torch's name (bfloat16)."""
        return self._stored[name].kind


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of tensor `name`, without reading a tensor in a file."""
    return state.shape(name) if isinstance(state, LazyState) else tuple(state[name].shape)
