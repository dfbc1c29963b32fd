"""Reads MXNet's `.params` files, a list of arrays and their names; an array is read when it is used.

The file (little endian): uint64 0x112, uint64 0, uint64 count, the arrays, uint64 count, the names (uint64 length and
bytes). An array has one of three formats:

- since 1.0: uint32 magic, int32 storage type (0: dense), uint32 axes, int64 sides, int32 and int32 device, int32 type,
  the numbers;
- before: the same with another magic and without the storage type;
- oldest: without magic, with uint32 sides.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rcnn.weights.readers.stored import Damaged, Refused, Stored, file_bytes, require_shape, stored_array

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MAX_ARRAYS, MAX_AXES, MAX_NAME = 100_000, 32, 1000
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}


def read_params(path: Path) -> dict[str, Stored]:
    """Arrays of `path` by name, with the prefixes `arg:` and `aux:` of the file. Raises Damaged and Refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, _, count = _take(file, "<QQQ", "its header")
        if magic != LIST_MAGIC:
            raise Damaged("it does not start with the header of an MXNet array list")
        if count > MAX_ARRAYS:
            raise Damaged(f"it claims to hold {count} arrays (at most {MAX_ARRAYS})")
        arrays = [_array(file, path, size, number) for number in range(count)]
        (named,) = _take(file, "<Q", "the number of names")
        if named != count:
            raise Damaged(f"it has {count} arrays and {named} names")
        names = [_name(file, number) for number in range(named)]
        if file.tell() != size:
            raise Damaged(f"{size - file.tell()} bytes follow the last name")
    if len(set(names)) != len(names):
        raise Damaged("two arrays have the same name")
    return dict(zip(names, arrays, strict=True))


def _array(file: BinaryIO, path: Path, size: int, number: int) -> Stored:
    """Array `number`: its header is read, its values are skipped."""
    where = f"array {number}"
    (magic,) = _take(file, "<I", where)
    if magic in (V2_MAGIC, V3_MAGIC):
        (storage,) = _take(file, "<i", where)
        if storage != 0:
            raise Refused(f"a sparse MXNet array (storage type {storage}, {where}); expected dense weights")
    side = "q"
    if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        (axes,) = _take(file, "<I", where)
    else:
        axes, side = magic, "I"
    if axes > MAX_AXES:
        raise Damaged(f"{where} has {axes} axes")
    shape = _take(file, f"<{axes}{side}", where)
    if axes == 0:  # an empty array: no values follow
        return stored_array((0,), np.dtype("<f4"), "C", lambda: b"")
    require_shape(shape)
    _, _, flag = _take(file, "<iii", where)
    if flag not in TYPES:
        raise Damaged(f"{where} has type {flag}; expected one of MXNet's {sorted(TYPES)}")
    dtype = np.dtype(TYPES[flag])
    start, length = file.tell(), math.prod(shape) * dtype.itemsize
    if length > size - start:
        raise Damaged(f"{where} of {shape} {dtype} needs {length} bytes, but {size - start} are left")
    file.seek(length, 1)
    return stored_array(shape, dtype, "C", lambda: file_bytes(path, start, length))


def _name(file: BinaryIO, number: int) -> str:
    (length,) = _take(file, "<Q", f"name {number}")
    if length > MAX_NAME:
        raise Damaged(f"name {number} is {length} bytes long (at most {MAX_NAME})")
    content = file.read(length)
    if len(content) != length:
        raise Damaged(f"it ends inside name {number}")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise Damaged(f"name {number} is not text") from error


def _take(file: BinaryIO, layout: str, what: str) -> tuple[int, ...]:
    """The next numbers, of the struct format `layout`. Raises Damaged if the file ends before."""
    length = struct.calcsize(layout)
    content = file.read(length)
    if len(content) != length:
        raise Damaged(f"it ends inside {what}")
    return struct.unpack(layout, content)
