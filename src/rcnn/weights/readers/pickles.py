"""Reads pickled weights without running the pickle: names outside a short list are refused.

A pickle is a program. Python's own reader imports and calls everything that it names; ours (opcodes.py) knows arrays
and plain containers, stops at anything else, and leaves arrays in the file until they are used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.weights.readers.opcodes import SCALARS, Build, Call, Inert, Name, Persistent, Source, Span, decoded, run
from rcnn.weights.readers.stored import Damaged, ForeignName, Refused, Stored, numpy_kind, require_shape, stored_array

FIRST = (b"\x80", b"(", b"]", b"}", b"c")  # first instructions of a pickle of weights
NUMPY = ("numpy.core.", "numpy._core.")  # before and since numpy 2
DTYPE = re.compile(r"[|<>=]?([?bBhHiIlLqQefdFD]|[biufc]\d{1,2}|[SU]\d{1,9})")
SETS = ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset")
GETATTR = ("builtins.getattr", "__builtin__.getattr")
# classes of settings, logs and times that trainers save beside the weights: each object becomes an Inert with the name
# of its class and without its content; the class is never imported
INERT = {
    "argparse.Namespace", "yacs.config.CfgNode", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode",
    "easydict.EasyDict", "addict.addict.Dict", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer", "collections.Counter", "collections.defaultdict",
    "datetime.datetime", "datetime.timedelta", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath",
}  # fmt: skip


class Dtype:
    """A numpy dtype while its pickle is being read."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not DTYPE.fullmatch(code):
            raise Refused(f"a numpy array of type {str(code)[:40]}; expected numbers or text")
        self.dtype = np.dtype(code)

    def set(self, state: Any) -> None:
        """Take the byte order from the pickled state. Raises Refused for a record type."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise Refused("a numpy array of records")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """A numpy array while its pickle is being read."""

    __slots__ = ("stored",)

    def __init__(self) -> None:
        self.stored: Stored | None = None

    def set(self, state: Any) -> None:
        """Take shape, type and content from the pickled state."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Damaged("a numpy array has no content")
        shape, dtype, fortran, content = state[-4:]
        self.stored = _array(content, dtype, shape, "F" if fortran is True or fortran == 1 else "C")


def call(name: Name, arguments: Any) -> Any:
    """Replaces the calls in pickles of numpy arrays and containers. Raises ForeignName for any other name."""
    word = f"{name.module}.{name.name}"
    inner = next((word.removeprefix(prefix) for prefix in NUMPY if word.startswith(prefix)), "")
    if word == "collections.OrderedDict":
        return _ordered(arguments)
    if word in INERT:
        return Inert(word)
    if word == "_codecs.encode":
        return _encoded(*arguments)
    if word == "numpy.dtype":
        return Dtype(arguments[0])
    if inner == "multiarray._reconstruct" and arguments[:1] == (Name("numpy", "ndarray"),):
        return Array()
    if inner == "multiarray.scalar" and isinstance(arguments[0], Dtype):
        return _scalar(*arguments)
    if inner == "numeric._frombuffer":
        content, dtype, shape, order, *axes = arguments
        if axes and axes[0] is not None:
            raise Refused("a numpy array with permuted axes")
        return _array(content, dtype, shape, order)
    if word in SETS and isinstance(arguments[0], list) and all(isinstance(item, SCALARS) for item in arguments[0]):
        return set(arguments[0])
    # protocol 2 names a method of a class like this; the method of an INERT class becomes an Inert too
    if word in GETATTR and isinstance(arguments[0], Name) and str(arguments[0]) in INERT:
        return Inert(str(arguments[0]))
    raise ForeignName(str(name))


def build(value: Any, state: Any) -> None:
    """Replaces `__setstate__` in a pickle of arrays; attributes of an OrderedDict are ignored."""
    if isinstance(value, Array | Dtype):
        value.set(state)
    elif not isinstance(value, (dict, Inert)):
        raise ForeignName(f"the attributes of {value if isinstance(value, Name) else type(value).__name__}")


def unpickle(source: Source, call: Call = call, build: Build = build, persistent: Persistent | None = None) -> Any:
    """The value of the pickle at `source`; every array in it is a Stored. Raises Damaged and Refused."""
    value = run(source, call, build, persistent) if persistent else run(source, call, build)
    return _finished(value, {}, 0)


def _finished(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` with each Array and Dtype replaced by its result; a container that appears twice is processed once."""
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, Array):
        if value.stored is None:
            raise Damaged("a numpy array has no content")
        return value.stored
    if isinstance(value, Dtype):
        return value.dtype
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth > 100:
        raise Refused("containers nested more than 100 deep")
    if isinstance(value, tuple):
        new: Any = tuple(_finished(each, done, depth + 1) for each in value)
        done[id(value)] = (value, new)
        return new
    done[id(value)] = (value, value)  # before its content, which may contain it again
    for key, each in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        value[key] = _finished(each, done, depth + 1)
    return value


def read_pickle_file(path: Path) -> Any:
    """The value of the pickle file `path`. Raises Damaged and Refused."""
    with path.open("rb") as file:
        source = Source(file, 0, path.stat().st_size, lambda: path.open("rb"))
        return unpickle(source)


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> Stored:
    if not isinstance(dtype, Dtype):
        raise Damaged("a numpy array has no type")
    if not isinstance(shape, tuple):
        raise Damaged("a numpy array has no shape")
    require_shape(shape)
    if isinstance(content, Span):
        if not content.text and content.length != np.prod(shape, dtype=object) * dtype.dtype.itemsize:
            raise Damaged(f"a numpy array of {shape} {dtype.dtype} has {content.length} bytes")
        read = (lambda: _latin1(bytes(content.read()))) if content.text else content.read
    elif isinstance(content, bytes | str):
        raw = content if isinstance(content, bytes) else content.encode("latin1")
        read = lambda: raw  # noqa: E731
    else:  # a list: this is how numpy pickles arrays of objects
        raise Refused("a numpy array of objects")
    return stored_array(shape, dtype.dtype, str(order), read)


def _latin1(text: bytes) -> bytes:
    """The bytes that a UTF-8 `text` stands for, as protocol 2 writes them. Raises Damaged for other characters."""
    try:
        return decoded(text).encode("latin1")
    except UnicodeEncodeError as error:
        raise Damaged(f"a text is not made of bytes ({error.reason})") from error


def _scalar(dtype: Dtype, content: Any = b"") -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    if numpy_kind(dtype.dtype)[0] not in "biufSU" or not isinstance(raw, bytes) or len(raw) != dtype.dtype.itemsize:
        raise Refused(f"a numpy number of {dtype.dtype}")
    return np.frombuffer(raw, dtype=dtype.dtype)[0]


def _ordered(arguments: Any) -> dict[Any, Any]:
    if not arguments:
        return {}
    pairs = arguments[0]
    if not isinstance(pairs, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise Damaged("an OrderedDict is not built from pairs")
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise Refused("an OrderedDict with keys that are neither text nor numbers")
    return dict(pairs)


def _encoded(text: Any, encoding: Any = "latin1") -> Any:
    """The result of `_codecs.encode`, which protocol 2 uses to write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode to {str(encoding)[:40]}")
    return text if isinstance(text, Span) else text.encode("latin1")
