"""Reads HDF5 files, in which Keras stores weights: each data set by its path. Needs h5py: pip install 'rcnn[hdf5]'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.weights.readers.stored import Damaged, Refused, Stored, numpy_kind, require_room, require_shape

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000
MAX_DEPTH = 30


def read_hdf5(path: Path) -> dict[str, Stored]:
    """The data sets of `path` by their paths, without a leading slash; none is read yet.

    Links and external data are refused: through them a weight file could read any other file. Raises Damaged, Refused,
    and ImportError without h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is an HDF5 file; reading it needs h5py: pip install 'rcnn[hdf5]'") from error
    found: dict[str, Stored] = {}
    try:
        with h5py.File(path, "r") as file:
            _walk(h5py, file, "", path, found, set())
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise Damaged(f"HDF5: {str(error)[:200]}") from error
    require_room(sum(stored.nbytes for stored in found.values()), path.stat().st_size)
    return found


def _walk(h5py: Any, group: Any, prefix: str, path: Path, found: dict[str, Stored], seen: set[int]) -> None:
    """Add the data sets below `group` to `found`; `seen` are the addresses of the groups visited."""
    if prefix.count("/") > MAX_DEPTH or len(seen) > MAX_OBJECTS:
        raise Refused(f"groups nested more than {MAX_DEPTH} deep, or more than {MAX_OBJECTS} groups")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{prefix}{name}, a link; expected a data set or a group")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if isinstance(item, h5py.Dataset):
            found[f"{prefix}{name}"] = _dataset(item, f"{prefix}{name}", path)
        elif address in seen:
            raise Refused(f"{prefix}{name}, a group that contains itself or has two parents")
        elif isinstance(item, h5py.Group):
            seen.add(address)
            _walk(h5py, item, f"{prefix}{name}/", path, found, seen)


def _dataset(item: Any, name: str, path: Path) -> Stored:
    if item.is_virtual or item.external:
        raise Refused(f"{name}, which stores its values in another file")
    if item.shape is None or item.dtype.hasobject:
        raise Refused(f"{name} of type {item.dtype}, which is not an array of numbers")
    require_shape(item.shape)

    def read() -> np.ndarray:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                values = np.ascontiguousarray(file[name][()], dtype=item_type.newbyteorder("="))
                return values.reshape(shape)  # a single number has become an array of one
        except (OSError, RuntimeError, KeyError) as error:
            raise Damaged(f"HDF5: {str(error)[:200]}") from error

    item_type, shape = item.dtype, tuple(item.shape)
    return Stored(shape, numpy_kind(item_type), math.prod(item.shape) * item_type.itemsize, read)
