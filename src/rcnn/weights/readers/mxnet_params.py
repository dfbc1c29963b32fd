"""MXNet's `.params`: a list of arrays and their names, each array read when it is asked for.

The file (little endian): uint64 0x112, uint64 0, uint64 count, the arrays, uint64 count, the names (uint64 length and
bytes). An array, in the layouts of three times:

- since 1.0: uint32 magic, int32 storage type (0: dense), uint32 axes, int64 sides, int32 and int32 device, int32 type,
  the numbers;
- before: the same with another magic and without the storage type;
- oldest: without magic, the sides being uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rcnn.weights.readers.stored import Damaged, Refused, Stored, require_shape, stored_array

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MOST_ARRAYS, MOST_AXES, LONGEST_NAME = 100_000, 32, 1000
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}


def read_params(path: Path) -> dict[str, Stored]:
    """Arrays of `path` by name, `arg:` and `aux:` before them as the file has it. Raises Damaged and Refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, _, count = _take(file, "<QQQ", "its beginning")
        if magic != LIST_MAGIC:
            raise Damaged("it does not begin as MXNet's lists of arrays do")
        _require_count(count, "arrays")
        arrays = [_array(file, path, size, number) for number in range(count)]
        (named,) = _take(file, "<Q", "the number of names")
        if named != count:
            raise Damaged(f"it has {count} arrays and {named} names")
        names = [_name(file, number) for number in range(named)]
        if file.tell() != size:
            raise Damaged(f"after the last name come {size - file.tell()} more bytes")
    if len(set(names)) != len(names):
        raise Damaged("a name comes twice")
    return dict(zip(names, arrays, strict=True))


def _array(file: BinaryIO, path: Path, size: int, number: int) -> Stored:
    """Array `number`, whose head is read and whose numbers are passed over."""
    where = f"array {number}"
    (magic,) = _take(file, "<I", where)
    if magic in (V2_MAGIC, V3_MAGIC):
        (storage,) = _take(file, "<i", where)
        if storage != 0:
            raise Refused(f"a sparse array of MXNet (storage type {storage}, {where}), as no detector's weights are")
    side = "q"
    if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        (axes,) = _take(file, "<I", where)
    else:
        axes, side = magic, "I"
    if axes > MOST_AXES:
        raise Damaged(f"{where} has {axes} axes")
    shape = _take(file, f"<{axes}{side}", where)
    if axes == 0:  # no array at all, and nothing more of it
        return stored_array((0,), np.dtype("<f4"), "C", lambda: b"")
    require_shape(shape)
    _, _, flag = _take(file, "<iii", where)
    if flag not in TYPES:
        raise Damaged(f"{where} is of type {flag}, which is none of MXNet's {sorted(TYPES)}")
    dtype = np.dtype(TYPES[flag])
    begins, length = file.tell(), math.prod(shape) * dtype.itemsize
    if length > size - begins:
        raise Damaged(f"{where} of {shape} {dtype} wants {length} bytes, and {size - begins} are left")
    file.seek(length, 1)
    return stored_array(shape, dtype, "C", _reader(path, begins, length))


def _reader(path: Path, begins: int, length: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(begins)
            return file.read(length)

    return read


def _name(file: BinaryIO, number: int) -> str:
    (length,) = _take(file, "<Q", f"name {number}")
    if length > LONGEST_NAME:
        raise Damaged(f"name {number} is {length} bytes long")
    content = file.read(length)
    if len(content) != length:
        raise Damaged(f"it ends within name {number}")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise Damaged(f"name {number} is no text") from error


def _take(file: BinaryIO, layout: str, what: str) -> tuple[int, ...]:
    """Numbers of `layout` at the file's place; Damaged where it ends before."""
    length = struct.calcsize(layout)
    content = file.read(length)
    if len(content) != length:
        raise Damaged(f"it ends within {what}")
    return struct.unpack(layout, content)


def _require_count(count: int, what: str) -> None:
    if count > MOST_ARRAYS:
        raise Damaged(f"it claims to have {count} {what}")
