"""HDF5 files, as Keras writes weights: every data set by its path. Needs h5py, an extra."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.weights.readers.stored import Damaged, Refused, Stored, numpy_kind, require_room, require_shape

MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_OBJECTS = 100_000
DEEPEST = 30


def read_hdf5(path: Path) -> dict[str, Stored]:
    """Data sets of `path` by their paths, without a leading slash; none is read yet. Raises Damaged and Refused.

    Links out of the file and data kept in others are refused: a file of weights could read any other through them.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is an HDF5 file, and to read those takes h5py: pip install rcnn[hdf5]") from error
    found: dict[str, Stored] = {}
    try:
        with h5py.File(path, "r") as file:
            _walk(h5py, file, "", path, found, set())
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise Damaged(f"HDF5: {str(error)[:200]}") from error
    require_room(sum(stored.nbytes for stored in found.values()), path.stat().st_size)
    return found


def _walk(h5py: Any, group: Any, prefix: str, path: Path, found: dict[str, Stored], seen: set[Any]) -> None:
    if prefix.count("/") > DEEPEST or len(seen) > MOST_OBJECTS:
        raise Refused(f"groups more than {DEEPEST} deep, or more than {MOST_OBJECTS} of them")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{prefix}{name}, a link to another place")
        item = group[name]
        place = h5py.h5o.get_info(item.id).addr
        if isinstance(item, h5py.Dataset):
            found[f"{prefix}{name}"] = _dataset(item, f"{prefix}{name}", path)
        elif place in seen:
            raise Refused(f"{prefix}{name}, a group that holds itself or is held twice")
        elif isinstance(item, h5py.Group):
            seen.add(place)
            _walk(h5py, item, f"{prefix}{name}/", path, found, seen)


def _dataset(item: Any, name: str, path: Path) -> Stored:
    if item.is_virtual or item.external:
        raise Refused(f"{name}, whose numbers lie in another file")
    if item.shape is None or item.dtype.hasobject:
        raise Refused(f"{name} of {item.dtype}, which is no array of numbers")
    require_shape(item.shape)

    def read() -> np.ndarray:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                return np.ascontiguousarray(file[name][()], dtype=item_type.newbyteorder("="))
        except (OSError, RuntimeError, KeyError) as error:
            raise Damaged(f"HDF5: {str(error)[:200]}") from error

    item_type = item.dtype
    return Stored(tuple(item.shape), numpy_kind(item_type), math.prod(item.shape) * item_type.itemsize, read)
