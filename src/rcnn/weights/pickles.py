"""Reading pickled weights without running what a pickle may carry: names outside a short list are refused.

A pickle is a program. Python's own reader looks up and calls whatever it names; ours knows arrays, tensors and plain
containers, and stops at anything else before it is called.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

ZIP_MAGIC = b"PK\x03\x04"  # torch.save since 1.6
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before: a pickled number, then pickles
_DTYPES = ("?", *"bBhHiIlLqQ", *"efd", "U", "S")  # of arrays beside torch's tensors


class _Refused(pickle.UnpicklingError):
    """A name that is not on the list."""


class _Call:
    """Base of what stands in for a function; without attributes that a pickle could overwrite."""

    __slots__ = ()


class _FromBuffer(_Call):
    """numpy's `_frombuffer`, what protocol 5 calls for an array."""

    __slots__ = ()

    def __call__(self, buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str, *axes: Any) -> np.ndarray:
        if axes:
            raise _Refused("numpy array with permuted axes")
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


class _Encode(_Call):
    """`_codecs.encode`, by which Python 2's strings and protocol 2's bytes are written."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise _Refused(f"_codecs.encode to {encoding}")
        return text.encode("latin1")


class _Scalar(_Call):
    """numpy's `scalar`, for numbers only."""

    __slots__ = ()

    def __call__(self, dtype: np.dtype, buffer: bytes | str) -> Any:
        if dtype.hasobject or dtype.kind not in "biuf":
            raise _Refused(f"numpy scalar of {dtype}")
        return np.frombuffer(buffer if isinstance(buffer, bytes) else buffer.encode("latin1"), dtype=dtype)[0]


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # numpy's own function: private, and in another module in numpy 1 and 2
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _Encode(),
}
for _module in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_module}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ALLOWED[f"{_module}.multiarray", "scalar"] = _Scalar()
    _ALLOWED[f"{_module}.numeric", "_frombuffer"] = _FromBuffer()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def read_pickle(path: str | Path) -> Any:
    """What a `.pkl` of arrays, or a `.pth` of tensors in either of torch's formats, holds.

    Raises FileNotFoundError, or a ValueError that names the file and what was refused, or how it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: want a file of weights")
    with path.open("rb") as file:
        head = file.read(64)
    if problem := _not_a_pickle(head):
        raise ValueError(f"{path} {problem}")
    try:
        if head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
            with torch.serialization.safe_globals(_torch_allowed()):
                return torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        if refused := _refused_name(error):
            raise ValueError(
                f"{path} asks for {refused}, which is neither array nor tensor: refused, and nothing of it was run. "
                "If you trust its author, save its weights alone again where it was made"
            ) from error
        raise ValueError(f"{path} is truncated or damaged ({_reason(error)}): copy it again") from error


def _not_a_pickle(head: bytes) -> str:
    """What else a file that begins so is, in words; empty where it may be a pickle."""
    if not head:
        return "is empty: copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights: the download went wrong, try again"
    if head[8:9] == b"{":
        return "looks like safetensors; want weights of another system (.pkl or .pth), or one of our checkpoint folders"
    if head.lstrip()[:1] == b"{":
        return "is text, not weights: want a .pkl or .pth"
    if not head.startswith(
        (ZIP_MAGIC, b"\x80", b"(", b"]", b"}", b"c")
    ):  # the first instruction of a pickle of weights
        return "is no pickle: want weights of another system, a .pkl or .pth"
    return ""


def _torch_allowed() -> list[Any]:
    """numpy's numbers beside tensors, as training scripts leave them in a `.pth` (a step, a best score)."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(function, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core")
             for function, name in ((_RECONSTRUCT, "_reconstruct"), (scalar, "scalar"))]  # fmt: skip
    return [np.ndarray, np.dtype, *{type(np.dtype(name)) for name in _DTYPES}, *names]


def _reason(error: Exception) -> str:
    """The line of torch's long messages that says what happened."""
    lines = [line for line in str(error).rpartition("WeightsUnpickler error:")[2].splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _refused_name(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    # torch says what it refused in the midst of advice on how to let it run, which is not ours to give
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found.group(1) if found and isinstance(error, pickle.UnpicklingError) else ""
