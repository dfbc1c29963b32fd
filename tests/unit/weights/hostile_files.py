"""Damaged and hostile weight files, made by hand, for tests of the readers."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.weights.readers.stored import Refused, Stored
from tests.narrow import save_npz

Maker = Callable[[Path], None]
ARRAYS = {f"layer{i}.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5) + i for i in range(8)}


def tensors() -> dict[str, torch.Tensor]:
    """The same as ARRAYS, as tensors."""
    return {name: torch.from_numpy(value.copy()) for name, value in ARRAYS.items()}


def write_pickle(path: Path) -> None:
    """A pickle of arrays."""
    path.write_bytes(pickle.dumps({"model": ARRAYS}, protocol=4))


def write_torch(path: Path) -> None:
    """torch.save since 1.6."""
    torch.save({"model": tensors()}, path)


def write_legacy(path: Path) -> None:
    """torch.save before 1.6."""
    torch.save({"model": tensors()}, path, _use_new_zipfile_serialization=False)


def write_npz(path: Path) -> None:
    """numpy's zip file, as it is."""
    save_npz(path, ARRAYS)


def write_packed_npz(path: Path) -> None:
    """numpy's zip file, compressed."""
    save_npz(path, ARRAYS, compressed=True)


def write_safetensors(path: Path) -> None:
    """safetensors."""
    from safetensors.torch import save_file

    save_file(tensors(), path)


def write_hdf5(path: Path) -> None:
    """HDF5."""
    h5py = pytest.importorskip("h5py", reason="needs rcnn[hdf5]")

    with h5py.File(path, "w") as file:
        for name, value in ARRAYS.items():
            file[f"group/{name}"] = value


WRITERS: dict[str, Maker] = {
    "pickle": write_pickle, "torch": write_torch, "legacy": write_legacy, "npz": write_npz, "packed": write_packed_npz,
    "safetensors": write_safetensors, "hdf5": write_hdf5,
}  # fmt: skip


def raw(content: bytes) -> Maker:
    """A file of these bytes."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def text(word: str) -> bytes:
    """The pickle instruction for a text."""
    return b"\x8c" + bytes([len(word)]) + word.encode()


def global_(module: str, name: str) -> bytes:
    """A name that a pickle looks up, by STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """The pickle instructions for a call of a name; arguments are instructions."""
    return global_(module, name) + b"(" + b"".join(arguments) + b"tR"


def zipped_pickle(body: bytes, storages: dict[str, bytes] | None = None, pack: int = zipfile.ZIP_STORED) -> Maker:
    """A file of torch.save with this pickle and these numbers."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", pack) as archive:
            archive.writestr("archive/data.pkl", body)
            archive.writestr("archive/version", "3\n")
            for key, content in (storages or {}).items():
                archive.writestr(f"archive/data/{key}", content)

    return write


def number(value: int) -> bytes:
    """The pickle instruction for an integer of any size."""
    content = value.to_bytes((value.bit_length() // 8) + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tuple_(*items: bytes) -> bytes:
    """A tuple of instructions."""
    return b"(" + b"".join(items) + b"t"


def torch_tensor(
    *, numel: int = 4, offset: int = 0, shape: tuple[int, ...] = (2, 2), strides: tuple[int, ...] = (2, 1),
    kind: str = "FloatStorage", rebuild: str = "_rebuild_tensor_v2",
) -> bytes:  # fmt: skip
    """The pickle of {"w": tensor} with arbitrary sizes, strides and offsets."""
    storage = tuple_(text("storage"), global_("torch", kind), text("0"), text("cpu"), number(numel)) + b"Q"
    sizes, steps = (tuple_(*(number(side) for side in sides)) for sides in (shape, strides))
    tensor = called("torch._utils", rebuild, storage, number(offset), sizes, steps, b"\x89", b"N")
    return b"\x80\x04}" + text("w") + tensor + b"s."


def numpy_array(shape: tuple[int, ...], code: str = "f4", content: bytes = b"", order: bytes = b"<") -> bytes:
    """The pickle of {"w": array} with an arbitrary shape and contents."""
    dtype = called("numpy", "dtype", text(code), b"\x89", b"\x88")
    dtype += tuple_(b"K\x03", text(order.decode()), b"N", b"N", b"N", number(-1), number(-1), b"K\x00") + b"b"
    body = b"B" + struct.pack("<I", len(content)) + content
    made = called("numpy._core.multiarray", "_reconstruct", global_("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
    made += tuple_(b"K\x01", tuple_(*(number(side) for side in shape)), dtype, b"\x89", body) + b"b"
    return b"\x80\x04}" + text("w") + made + b"s."


def npz_of(members: dict[str, bytes], pack: int = zipfile.ZIP_STORED) -> Maker:
    """A zip file of these members."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", pack) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def npy(array: Any) -> bytes:
    """One array as numpy writes it; objects are pickled."""
    with io.BytesIO() as file:
        np.save(file, array, allow_pickle=True)
        return file.getvalue()


def npy_header(words: str, content: bytes = b"") -> bytes:
    """A numpy array file with `words` as its header."""
    header = words.encode() + b" " * (-(len(words) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def safetensors_of(header: bytes, content: bytes = b"") -> Maker:
    """A safetensors file with this header."""
    return raw(struct.pack("<Q", len(header)) + header + content)


def loaded(value: Any, depth: int = 0) -> Any:
    """`value` with its arrays read. Refused if it is nested too deeply."""
    if depth > 30:
        raise Refused("containers nested more than 30 deep")
    if isinstance(value, Stored):
        return value.read()
    if isinstance(value, dict):
        return {key: loaded(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(loaded(each, depth + 1) for each in value)
    return value
