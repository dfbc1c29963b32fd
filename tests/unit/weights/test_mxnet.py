"""MXNet's lists of arrays: files of three layouts written byte by byte, and the errors for bad ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.state_dict import find_weights

FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def v2(array: np.ndarray, storage: int = 0, magic: int = 0xF993FAC9) -> bytes:
    head = struct.pack("<IiI", magic, storage, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
    return head + struct.pack("<iii", 1, 0, FLAGS[array.dtype.name]) + array.tobytes()


def v3(array: np.ndarray) -> bytes:
    return v2(array, magic=0xF993FACA)


def v1(array: np.ndarray) -> bytes:
    head = struct.pack("<II", 0xF993FAC8, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
    return head + struct.pack("<iii", 1, 0, FLAGS[array.dtype.name]) + array.tobytes()


def oldest(array: np.ndarray) -> bytes:
    head = struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    return head + struct.pack("<iii", 2, 3, FLAGS[array.dtype.name]) + array.tobytes()


def params(arrays: dict[str, np.ndarray], layout: Callable[[np.ndarray], bytes]) -> bytes:
    """A whole file, as mx.nd.save writes it."""
    content = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(layout(array) for array in arrays.values())
    names = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)
    return content + struct.pack("<Q", len(arrays)) + names


ARRAYS = {
    "arg:a_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "arg:b_bias": np.array([1.5, -2], dtype=np.float16),
    "aux:c_moving_mean": np.array([[3, 4]], dtype=np.int64),
}


@pytest.mark.parametrize("layout", [v2, v1, oldest, v3])
def test_every_layout(tmp_path: Path, layout: Callable[[np.ndarray], bytes]) -> None:
    path = tmp_path / "fcis.anything"
    path.write_bytes(params(ARRAYS, layout))
    assert read_container(path).kind == "MXNet parameters"
    state = find_weights(path).state
    assert set(state) == set(ARRAYS)
    for name, value in ARRAYS.items():
        ours = state[name]
        assert ours.dtype == (torch.int64 if value.dtype == np.int64 else torch.float32)
        np.testing.assert_array_equal(ours.numpy(), value.astype(ours.numpy().dtype))


@pytest.mark.parametrize("layout", [v2, v1, oldest])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, layout: Callable[[np.ndarray], bytes]) -> None:
    whole = params(ARRAYS, layout)
    path = tmp_path / "cut.params"
    for length in range(8, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.params"):
            find_weights(path)


def _with(place: int, layout: str, value: int) -> bytes:
    whole = bytearray(params(ARRAYS, v2))
    struct.pack_into(layout, whole, place, value)
    return bytes(whole)


FIRST = 24  # where the first array begins
HOSTILE = {
    "a number of arrays beyond all": _with(16, "<Q", 2**63),
    "more arrays than there are": _with(16, "<Q", 4),
    "fewer arrays than there are": _with(16, "<Q", 2),
    "sparse storage": _with(FIRST + 4, "<i", 1),
    "thousands of axes": _with(FIRST + 8, "<I", 5000),
    "a side beyond all": _with(FIRST + 12, "<q", 2**62),
    "a negative side": _with(FIRST + 12, "<q", -1),
    "a side larger than the file": _with(FIRST + 12, "<q", 10**6),
    "an unknown type": _with(FIRST + 12 + 24 + 8, "<i", 12),
    "a name longer than the file": params(ARRAYS, v2)[:-17].replace(struct.pack("<Q", 17), struct.pack("<Q", 2**40)),
    "bytes behind the names": params(ARRAYS, v2) + b"more",
    "a name that is no text": params(ARRAYS, v2).replace(b"arg:b_bias", b"arg:b_bia\xff"),
    "the same name twice": params(ARRAYS, v2).replace(b"arg:b_bias", b"arg:a_weight"[:10]).replace(
        struct.pack("<Q", 12) + b"arg:a_weight", struct.pack("<Q", 10) + b"arg:a_weig"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile.params"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(ValueError, match=r"hostile\.params"):
        find_weights(path)
