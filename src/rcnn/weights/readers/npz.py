"""numpy's `.npz`: a zip file of arrays, each read when it is asked for. Pickled objects in one are never read."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from rcnn.weights.readers.stored import Damaged, Refused, Stored, require_shape, stored_array
from rcnn.weights.readers.zips import Member, zip_members

MAGIC = b"\x93NUMPY"
MOST_HEADER = 10_000  # bytes, of an array's description


def is_npz(members: dict[str, Member]) -> bool:
    """Whether a zip file of these members is numpy's."""
    return bool(members) and all(name.endswith(".npy") for name in members)


def read_npz(path: Path) -> dict[str, Stored]:
    """Arrays of `path` by name. Raises Damaged and Refused."""
    return {name.removesuffix(".npy"): _array(member) for name, member in zip_members(path).items()}


def _array(member: Member) -> Stored:
    shown = member.name[:100]
    with io.BytesIO(member.head(MOST_HEADER + 12)) as head:
        try:
            version = npy.read_magic(head)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = reader(head, max_header_size=MOST_HEADER)
        except Exception as error:  # numpy reads a literal of Python's there, which may fail in any way
            raise Damaged(f"{shown!r} does not begin as an array of numpy does") from error
        begins = head.tell()
    if dtype.hasobject:
        raise Refused(
            f"{shown!r}, a pickle of Python objects (save each array under a name of its own: np.savez(file, **arrays))"
        )
    require_shape(shape)
    nbytes = math.prod(shape) * dtype.itemsize
    if member.size - begins != nbytes:
        raise Damaged(f"{shown!r} of {shape} {dtype} has {member.size - begins} bytes, want {nbytes}")
    return stored_array(shape, np.dtype(dtype), "F" if fortran else "C", lambda: memoryview(member.read())[begins:])
