"""Structs of numbers in MATLAB's files of version 5 (written by `save -v6` and `-v7`; MathWorks, "MAT-File Format").

A file is a header of 128 bytes and elements: a type, a number of bytes, and data that are padded to 8 bytes. scipy's
reader is not used because it is compiled code, which can crash the process when a file is damaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

HEADER = 128  # bytes
ORDERS = {b"IM": "<", b"MI": ">"}  # the last two bytes of the header: little and big endian
MATRIX, COMPRESSED = 14, 15  # types of elements; those of numbers:
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
STRUCT = 2  # classes of arrays; those of numbers:
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x800  # flag of an array
MAX_BYTES = 1 << 28  # of an element after decompression


class _Element(NamedTuple):
    kind: int
    data: memoryview


class _Array(NamedTuple):
    """The header of an array; its data are the elements `parts`."""

    kind: int  # its class
    flags: int
    shape: tuple[int, ...]
    name: str
    parts: Iterator[_Element]


def read_struct(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """The fields of the struct `name` (1 x 1) that are arrays of real numbers, in MATLAB's shape (rows, columns).

    Raises ValueError if the file has no such struct or is damaged.
    """
    content = memoryview(path.read_bytes())
    order = ORDERS.get(bytes(content[HEADER - 2 : HEADER]))
    if order is None:
        raise ValueError("not a MATLAB file of version 5 (save -v7)")
    for element in _elements(content[HEADER:], order):
        array = _array(_decompressed(element, order), order)
        if array is not None and array.name == name and array.kind == STRUCT and array.shape == (1, 1):
            return _fields(array, order)
    raise ValueError(f"no struct {name}")


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements in `data`, one after the other."""
    start = 0
    while start + 8 <= len(data):
        kind, size = (int(word) for word in np.frombuffer(data[start : start + 8], f"{order}u4"))
        if kind >> 16:  # at most four bytes, stored in the tag itself
            kind, size, first = kind & 0xFFFF, kind >> 16, start + 4
            end = start + 8
            if size > 4:
                raise ValueError("a damaged element")
        else:
            first = start + 8
            end = first + size if kind == COMPRESSED else first + -(-size // 8) * 8
        if first + size > len(data):
            raise ValueError("an element is cut short")
        yield _Element(kind, data[first : first + size])
        start = end


def _decompressed(element: _Element, order: str) -> _Element:
    """The element in a compressed element; other elements unchanged."""
    if element.kind != COMPRESSED:
        return element
    try:
        content = zlib.decompressobj().decompress(element.data, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error
    return next(_elements(memoryview(content), order), element)


def _array(element: _Element, order: str) -> _Array | None:
    """The array in an element; None if it is another kind of element, or empty."""
    if element.kind != MATRIX or not element.data:
        return None
    parts = _elements(element.data, order)
    flags, shape, name = (next(parts, _Element(0, memoryview(b""))) for _ in range(3))
    if len(flags.data) != 8 or len(shape.data) % 4:
        raise ValueError("a damaged array")
    word = int(np.frombuffer(flags.data, f"{order}u4")[0])
    sides = np.frombuffer(shape.data, f"{order}i4").tolist()
    return _Array(word & 0xFF, word, tuple(sides), bytes(name.data).decode("latin-1"), parts)


def _fields(struct: _Array, order: str) -> dict[str, npt.NDArray[Any]]:
    """The fields of a struct (1 x 1) that are arrays of real numbers."""
    length, names = next(struct.parts, None), next(struct.parts, None)
    if length is None or names is None or len(length.data) != 4:
        raise ValueError("a damaged struct")
    size = int(np.frombuffer(length.data, f"{order}i4")[0])
    if size <= 0 or len(names.data) % size:
        raise ValueError("a damaged struct")
    fields = dict[str, npt.NDArray[Any]]()
    for start in range(0, len(names.data), size):
        name = bytes(names.data[start : start + size]).partition(b"\0")[0].decode("latin-1")
        element = next(struct.parts, None)
        array = None if element is None else _array(element, order)
        if array is not None and array.kind in CLASSES and not array.flags & COMPLEX:
            fields[name] = _numbers(array, order)
    return fields


def _numbers(array: _Array, order: str) -> npt.NDArray[Any]:
    """The values of an array. The file stores them by columns, and in a smaller type if they fit."""
    values = next(array.parts, None)
    if values is None or values.kind not in NUMBERS or min(array.shape, default=-1) < 0:
        raise ValueError("a damaged array")
    stored = np.frombuffer(values.data, f"{order}{NUMBERS[values.kind]}")
    return stored.reshape(array.shape, order="F").astype(CLASSES[array.kind])
