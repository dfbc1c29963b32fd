"""Pickles of plain values (lists, dicts, text, numbers), read without importing or calling what they name.

REFER's refs(*).p have five million instructions, so Python's own reader runs them, without access to any class or
function. What it reads is checked: an instruction must not reserve more memory than the size of the file. The reader
of checkpoints, `weights/readers/opcodes.py`, also knows arrays, and takes ten times as long.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

MAX_BYTES = 1 << 30


def read_plain_pickle(file: Path) -> object:
    """The value in a file. Raises ValueError if it is damaged, too large, or names a class or function."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{file} has {size / 2**20:.0f} MiB; expected at most {MAX_BYTES >> 20} MiB: download it again"
        )
    try:
        return _Reader(_Watched(file.read_bytes())).load()
    except Exception as error:  # a damaged pickle raises many types of errors
        raise ValueError(
            f"{file} is not a pickle of plain values that can be read ({type(error).__name__}: {str(error)[:100]}): "
            "download it again"
        ) from error


class _Reader(pickle.Unpickler):
    """Reads plain values only; instructions that import something are refused."""

    def __init__(self, source: _Watched) -> None:
        super().__init__(source, encoding="latin1")

    @override
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which plain values do not need")

    @override
    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside of the file")


class _Watched:
    """A file in memory that refuses instructions that would reserve more memory than the file can need.

    The reader asks for one byte per instruction, and then for its arguments. It reserves its memo up to the highest
    entry (LONG_BINPUT, PUT), so the entry is checked. Instructions within a FRAME cannot be seen: it is refused.
    """

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._limit = len(content)
        self._instruction = b""

    def read(self, count: int) -> bytes:
        content = self._file.read(count)
        if count == 1:
            self._instruction = content
        elif self._instruction == pickle.LONG_BINPUT and count == 4:
            self._require(int.from_bytes(content, "little"))
        elif self._instruction == pickle.FRAME and count == 8:  # else it is the length of a text of 149 bytes
            raise pickle.UnpicklingError("it has protocol 4 or later; expected protocol 2 or earlier")
        return content

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def readline(self) -> bytes:
        line = self._file.readline()
        if self._instruction == pickle.PUT:
            self._require(int(line))
        return line

    def _require(self, entry: int) -> None:
        if not 0 <= entry <= self._limit:
            raise pickle.UnpicklingError(f"it refers to memo entry {entry}, but has only {self._limit} bytes")
