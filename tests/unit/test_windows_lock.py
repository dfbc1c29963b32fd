"""The lock of output folders on Windows, where no other process can read a byte that is locked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rcnn.outputs import MARKER, lock_file
from rcnn.outputs.marker import read_marker

LINE = '{"file": "a.txt", "sha256": "0"}\n'


class Locks:
    """Windows' locks: `locking` as in msvcrt, from the position of the descriptor on."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[int, tuple[int, int]] = {}  # descriptor -> first byte, and one past the last

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert mode == self.LK_NBLCK
        first = os.lseek(descriptor, 0, os.SEEK_CUR)
        if any(start < first + count and first < end for start, end in self.held.values()):
            raise PermissionError(13, "Permission denied")
        self.held[descriptor] = first, first + count


def test_a_locked_marker_can_be_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = Locks()
    monkeypatch.setitem(sys.modules, "msvcrt", locks)  # type: ignore[arg-type]
    monkeypatch.setattr("rcnn.outputs.marker.os", SimpleNamespace(**vars(os) | {"name": "nt"}))
    path = tmp_path / MARKER
    path.write_text(LINE)
    with path.open("a+") as first, path.open("a+") as second:
        second.seek(3)
        lock_file(first)
        [(start, end)] = locks.held.values()
        first.write(LINE)
        first.flush()
        assert start > 1000 * path.stat().st_size, "no byte of the content is locked, however long the list is"
        assert (end - start, path.read_text()) == (1, 2 * LINE)
        assert read_marker(path) == {"a.txt": {"0"}}
        with pytest.raises(BlockingIOError, match=f"{MARKER} is locked by another process"):
            lock_file(second)
        assert second.tell() == 3
        first.seek(0)
        assert first.read() == 2 * LINE, "the position of the file is as it was"
