"""Reads files of `torch.save` in both formats (a zip file since 1.6, several pickles before), and safetensors files.

torch's own reader is not used: it trusts the shapes, strides and offsets in a file, and reads everything at once.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.data.messages import counted
from rcnn.weights.readers import pickles
from rcnn.weights.readers.opcodes import Name, Source
from rcnn.weights.readers.stored import Damaged, Refused, Stored, file_part, require_shape
from rcnn.weights.readers.zips import Member, zip_members

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: a pickled number, then more pickles
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes of a safetensors header
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()}
SAFE_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CURE = {
    "torch._utils._rebuild_qtensor": "a quantized tensor: save the model before quantization, or its dequantized "
    "weights",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor: save it again after .to_dense()",
    "torch.serialization._get_layout": "a sparse tensor: save it again after .to_dense()",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without data (on the meta device)",
    "torch.jit._pickle.build_intlist": "a TorchScript program: save its state_dict() instead",
}
CODES = {torch.bool: "b1", torch.int8: "i1", torch.uint8: "u1", torch.float32: "f4", torch.float16: "f2",
        torch.float64: "f8", torch.int64: "i8", torch.int32: "i4", torch.int16: "i2"}  # fmt: skip


Part = Callable[[int, int], bytearray]  # (offset, count) -> bytes


class Storage:
    """A torch storage in the file: the bytes that one or more tensors share, read when they are used."""

    __slots__ = ("dtype", "key", "numel", "offset", "parts")

    def __init__(self, key: str, dtype: torch.dtype, numel: int) -> None:
        self.key, self.dtype, self.numel, self.offset = key, dtype, numel, 0
        self.parts: list[Part] = []  # one entry when the position is known: in the old format, after all tensors

    def part(self, at: int, count: int) -> bytearray:
        """`count` bytes from byte `at`."""
        return self.parts[0](at, count)

    def viewed_as(self, dtype: torch.dtype, offset: int = 0) -> Storage:
        """The same bytes as values of `dtype`, starting at value `offset`."""
        other = Storage(self.key, dtype, self.numel * self.dtype.itemsize // dtype.itemsize - offset)
        other.offset, other.parts = offset, self.parts
        return other


def read_zip(path: Path) -> Any:
    """The content of a zip file of `torch.save`, with tensors as Stored. Raises Damaged and Refused."""
    members = zip_members(path)
    pickled = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    root = pickled[0].removesuffix("data.pkl") if len(pickled) == 1 else ""
    if not pickled:
        raise Refused(
            "a zip file without data.pkl, which torch.save did not write: unpack it and convert the file inside"
        )
    if len(pickled) > 1:
        raise Refused(f"{len(pickled)} pickles in a zip file; expected one")
    if f"{root}constants.pkl" in members or any(name.startswith(f"{root}code/") for name in members):
        raise Refused("a TorchScript program, not weights: load it where it was made and save its state_dict()")
    order = members.get(f"{root}byteorder")
    if order is not None and order.read().strip() != b"little":
        raise Refused("big-endian numbers: save it again on a little-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Storage:
        storage = _storage(key, storages)
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise Damaged(f"the data of storage {storage.key[:40]!r} is missing")
        if storage.numel * storage.dtype.itemsize > member.size:
            raise Damaged(f"storage {storage.key} claims {storage.numel} numbers in {member.size} bytes")
        if not storage.parts:
            part = _part(path, member.start, member.size) if member.start >= 0 else _unpacked(member)
            storage.parts.append(part)
        return storage

    member = members[pickled[0]]
    if member.start >= 0:  # not compressed: the pickle is read in place
        with path.open("rb") as file:
            source = Source(file, member.start, member.size, lambda: path.open("rb"))
            return pickles.unpickle(source, call, pickles.build, persistent)
    content = member.read()
    source = Source(io.BytesIO(content), 0, len(content), lambda: io.BytesIO(content))
    return pickles.unpickle(source, call, pickles.build, persistent)


def read_legacy(path: Path) -> Any:
    """The content of a file of `torch.save` before 1.6, with tensors as Stored. Raises Damaged and Refused."""
    size = path.stat().st_size
    storages: dict[str, Storage] = {}
    with path.open("rb") as file:
        source = Source(file, 0, size, lambda: path.open("rb"))
        magic, protocol, machine = (pickles.unpickle(source) for _ in range(3))
        if (magic, protocol) != (MAGIC_NUMBER, 1001) or not isinstance(machine, dict):
            raise Damaged("its header is not that of torch.save")
        if machine.get("little_endian") is not True:
            raise Refused("big-endian numbers: save it again on a little-endian machine")
        content = pickles.unpickle(source, call, pickles.build, lambda key: _storage(key, storages))
        keys = pickles.unpickle(source)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Damaged("its list of storages is not a list of names")
        for key in keys:
            storage = storages.get(key)
            if storage is None:
                raise Damaged(f"storage {key[:40]!r} belongs to no tensor")
            (numel,) = struct.unpack("<q", source.take(8))
            count = numel * storage.dtype.itemsize
            if numel != storage.numel or source.at + count > size:
                raise Damaged(f"it ends at byte {size}, inside storage {key[:40]!r} of {storage.numel} numbers")
            storage.parts.append(_part(path, source.at, count))
            source.seek(source.at + count)
        if missing := [storage.key for storage in storages.values() if not storage.parts]:
            raise Damaged(f"the data of {counted(len(missing), 'storage')} is missing")
    return content


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Tensors of a safetensors file by name. Raises Damaged and Refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        source = Source(file, 0, size, lambda: path.open("rb"))
        (length,) = struct.unpack("<Q", source.take(8))
        if length > MAX_HEADER:
            raise Refused(f"a header of {length} bytes (at most {MAX_HEADER})")
        try:
            header = json.loads(source.take(length))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise Damaged("its header is not a JSON object")
    tensors: dict[str, Stored] = {}
    ends: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            word, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"the description of tensor {name[:100]!r} is incomplete") from error
        require_shape(shape)
        if word not in SAFE_DTYPES:
            raise Refused(f"tensor {name[:100]!r} of type {str(word)[:20]}; expected {', '.join(SAFE_DTYPES)}")
        if type(start) is not int or type(end) is not int or not 0 <= start <= end <= size - 8 - length:
            raise Damaged(f"tensor {name[:100]!r} lies outside the file")
        dtype = SAFE_DTYPES[word]
        if end - start != math.prod(shape) * dtype.itemsize:
            raise Damaged(f"tensor {name[:100]!r} of {shape} {word} has {end - start} bytes")
        ends.append((start, end))
        storage = Storage(name, dtype, math.prod(shape))
        storage.parts.append(_part(path, 8 + length + start, end - start))
        tensors[name] = _stored(storage, 0, shape, None)
    ends.sort()
    if any(one[1] > other[0] for one, other in itertools.pairwise(ends)):
        raise Refused("tensors that overlap")
    return tensors


def call(name: Name, arguments: Any) -> Any:
    """Replaces the calls in pickles of tensors and arrays. Raises Refused for any other name."""
    word = str(name)
    if word in CURE:
        raise Refused(CURE[word])
    if word in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3"):
        if len(arguments) < 4 or not isinstance(arguments[0], Storage):
            raise Damaged("a tensor has no storage")
        storage, offset, shape, strides = arguments[:4]
        if word.endswith("_v3"):
            kind = arguments[6] if len(arguments) > 6 else None
            if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in DTYPES:
                raise Refused(f"a tensor of type {str(kind)[:40]}")
            storage = storage.viewed_as(DTYPES[kind.name])
        return _stored(storage, offset, shape, strides)
    if word in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        if not arguments or not isinstance(arguments[0], Stored):
            raise Damaged("a parameter has no tensor")
        return arguments[0]
    if word == "torch.Size":
        return tuple(arguments[0]) if arguments and isinstance(arguments[0], (tuple, list)) else ()
    if word == "torch.device":
        return str(arguments[0])[:20] if arguments else ""
    return pickles.call(name, arguments)


def _storage(key: Any, known: dict[str, Storage]) -> Storage:
    """The storage that a pickled tensor refers to."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or not isinstance(key[1], Name):
        what = f" (a whole {key[0]})" if isinstance(key, tuple) and key and isinstance(key[0], str) else ""
        raise Refused(f"a reference to something outside the file{what[:60]}: save only the state_dict()")
    _, kind, name, _, numel, *view = key
    if kind.name not in STORAGES or kind.module not in ("torch", "torch.cuda", "torch.storage"):
        raise Refused(f"a tensor of type {kind}: save it as float32")
    if not isinstance(name, str) or type(numel) is not int or not 0 <= numel < 1 << 48:
        raise Damaged("a storage has no name or no length")
    if name not in known:
        known[name] = Storage(name, STORAGES[kind.name], numel)
    storage = known[name]
    if (storage.dtype, storage.numel) != (STORAGES[kind.name], numel):
        storage = storage.viewed_as(STORAGES[kind.name])
    if view and view[0] is not None:  # torch 0.2: a storage inside another
        shift = view[0][1] if isinstance(view[0], tuple) and len(view[0]) == 3 else None
        if type(shift) is not int or not 0 <= shift <= numel:
            raise Damaged(f"storage {name[:40]!r} starts outside the storage that contains it")
        return storage.viewed_as(storage.dtype, shift)
    return storage


def _stored(storage: Storage, offset: Any, shape: Any, strides: Any) -> Stored:
    """The tensor of `shape` and `strides` at value `offset` of `storage`. Raises Damaged if it does not fit inside."""
    if not isinstance(shape, tuple):
        raise Damaged("a tensor has no shape")
    require_shape(shape)
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    fits = isinstance(strides, tuple) and len(strides) == len(shape) and type(offset) is int and offset >= 0
    if not fits or not all(type(stride) is int and 0 <= stride < 1 << 48 for stride in strides):
        raise Damaged(f"a tensor of shape {shape} has wrong or negative strides")
    numel = math.prod(shape)
    extent = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if numel else 0
    if offset + extent > storage.numel:
        raise Damaged(f"a tensor of shape {shape} reaches number {offset + extent} in a storage of {storage.numel}")
    size = storage.dtype.itemsize

    def read() -> Tensor:
        content = storage.part((storage.offset + offset) * size, extent * size)
        if not numel:
            return torch.empty(shape, dtype=storage.dtype)
        return torch.frombuffer(content, dtype=storage.dtype).as_strided(shape, strides)

    return Stored(shape, CODES.get(storage.dtype, str(storage.dtype).removeprefix("torch.")), numel * size, read)


def _part(path: Path, start: int, size: int) -> Part:
    """A function that reads parts of the `size` bytes at byte `start` of file `path`."""
    return partial(file_part, lambda: path.open("rb"), start, size)


def _unpacked(member: Member) -> Part:
    return lambda at, count: bytearray(memoryview(member.read())[at : at + count])
