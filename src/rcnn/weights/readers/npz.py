"""Reads numpy's `.npz`, a zip file of arrays; an array is read when it is used. Pickled objects in it are refused."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from rcnn.weights.readers.stored import Damaged, Refused, Stored, require_shape, stored_array
from rcnn.weights.readers.zips import Member, zip_members

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes of an array's description


def is_npz(members: dict[str, Member]) -> bool:
    """Whether a zip file with these members was written by numpy."""
    return bool(members) and all(name.endswith(".npy") for name in members)


def read_npz(path: Path) -> dict[str, Stored]:
    """Arrays of `path` by name. Raises Damaged and Refused."""
    return {name.removesuffix(".npy"): _array(member) for name, member in zip_members(path).items()}


def _array(member: Member) -> Stored:
    shown = member.name[:100]
    with io.BytesIO(member.head(MAX_HEADER + 12)) as head:
        try:
            version = npy.read_magic(head)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = reader(head, max_header_size=MAX_HEADER)
        except Exception as error:  # numpy parses a Python literal here, which may fail in any way
            raise Damaged(f"{shown!r} does not start with the header of a numpy array") from error
        start = head.tell()
    if dtype.hasobject:
        raise Refused(
            f"{shown!r}, a pickle of Python objects (save each array under its own name: np.savez(file, **arrays))"
        )
    require_shape(shape)
    nbytes = math.prod(shape) * dtype.itemsize
    if member.size - start != nbytes:
        raise Damaged(f"{shown!r} of {shape} {dtype} has {member.size - start} bytes, expected {nbytes}")
    return stored_array(shape, np.dtype(dtype), "F" if fortran else "C", lambda: memoryview(member.read())[start:])
