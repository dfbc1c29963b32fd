"""The marker of an output folder: a file that lists what rcnn wrote there. The process that writes locks it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

MARKER = ".rcnn-files"
RUN_LOG = "log.jsonl"  # listed by the marker of a training run only
METRICS_FILE = "metrics.json"  # listed by the marker of an evaluation only
PREDICTIONS = "predictions.json"  # listed by the marker of predictions, as is PARTIAL
PARTIAL = "predictions.partial.jsonl"  # one line per image while they are made
REMOVED = "removed"  # in place of a digest: rcnn removed the file, so a later file of this name is not its own
ENTRY = '{"file": '  # start of each line of the marker
CHOOSE_FOLDER = "choose another output (--output)"
CHOOSE = f"{CHOOSE_FOLDER}, or move it away"
LOCKS = Path("/proc/locks")  # of Linux: the processes that hold locks, with the inodes of the locked files
PATIENCE = 0.5  # seconds to wait for processes that only look whether the folder is in use
LOCKED_BYTE = 2**30  # position of the byte that is locked on Windows


def locked_marker(folder: Path) -> IO[str]:
    """The marker of `folder`, open, and locked until it is closed or its process ends.

    FileExistsError if its name belongs to another kind of file, BlockingIOError if another process has locked it.
    """
    path = folder / MARKER
    if path.is_symlink():
        raise FileExistsError(f"{path} is a symbolic link, which rcnn does not follow: {CHOOSE}")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a folder, a pipe or a device; expected rcnn's list of files: {CHOOSE}")
    deadline = time.monotonic() + PATIENCE
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            lock_file(file)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BlockingIOError as error:
            file.close()
            if time.monotonic() < deadline:  # it may only look
                time.sleep(PATIENCE / 20)
                continue
            raise _in_use(folder) from error
        file.close()  # the process that held the lock has removed this marker


def require_not_in_use(folder: Path) -> None:
    """Raise BlockingIOError if another process writes to `folder`. Nothing is written or created."""
    path = folder / MARKER
    if path.is_symlink() or not path.is_file():
        return
    try:
        with path.open("r+", encoding="utf-8") as file:
            lock_file(file, shared=True)  # several processes may look at once
    except BlockingIOError as error:
        raise _in_use(folder) from error
    except OSError:  # no permission: `locked_marker` reports it when the folder is to be written
        return


def _in_use(folder: Path) -> BlockingIOError:
    who = _holder(folder / MARKER) or "another rcnn process"
    return BlockingIOError(f"{folder} is in use by {who}: wait until it ends, or {CHOOSE_FOLDER}")


def _holder(path: Path) -> str:
    """The process that has locked the file at `path`; empty if the system does not say."""
    with suppress(OSError, ValueError):
        inode = str(path.stat().st_ino)
        for line in LOCKS.read_text(encoding="ascii").splitlines():  # "1: FLOCK ADVISORY WRITE 4711 fe:00:81 0 EOF"
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and int(words[4]) > 0:
                return f"process {words[4]} (rcnn)"
    return ""


def read_marker(path: Path) -> dict[str, set[str]]:
    """Name -> digests of the contents that rcnn wrote; none for a file that it removed.

    FileExistsError for a file that is not a marker. An incomplete last line (of a process that was killed) is skipped.
    """
    written: dict[str, set[str]] = {}
    if not path.is_file() or path.is_symlink():
        return written
    *lines, unfinished = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        entry = _entry(line)
        if entry is None:
            raise FileExistsError(
                f"{path}, line {number}, is not an entry of rcnn's list of files: remove that line, or {CHOOSE_FOLDER}"
            )
        written[entry[0]] = set() if entry[1] == REMOVED else {*written.get(entry[0], ()), entry[1]}
    if unfinished and not unfinished.startswith(ENTRY[: len(unfinished)]):
        raise FileExistsError(f"{path} is not rcnn's list of files: {CHOOSE_FOLDER}")
    return written


def _entry(line: str) -> tuple[str, str] | None:
    """The name and the digest in a line of a marker; None if it is not an entry."""
    try:
        entry = json.loads(line)
        return str(entry["file"]), str(entry["sha256"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def readable_entries(folder: Path) -> tuple[set[str], list[int]]:
    """What a marker says, for readers, also a damaged one: the names in its lines, and the numbers of damaged lines.

    Lines count from 1. Both are empty if no line is sound, because the file is of another program then, or if it cannot
    be read. An incomplete last line is not reported.
    """
    path = folder / MARKER
    if not path.is_file() or path.is_symlink():
        return set(), []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:  # e.g. of another user
        return set(), []
    entries = {number: _entry(line) for number, line in enumerate(lines, start=1)}
    names = {entry[0] for entry in entries.values() if entry is not None}
    if not lines[-1] or lines[-1].startswith(ENTRY[: len(lines[-1])]):
        del entries[len(lines)]
    return names, [number for number, entry in entries.items() if entry is None] if names else []


def drop_unfinished_line(marker: IO[str]) -> None:
    """Remove the last line of an open marker if it is incomplete because its process was killed."""
    marker.seek(0)
    text = marker.read()
    if not text.endswith("\n"):
        marker.truncate(len(text[: text.rfind("\n") + 1].encode()))


def files_of_rcnn(folder: str | Path) -> set[str]:
    """Names, relative to `folder`, of the files and folders that rcnn wrote there. Does not lock."""
    return set(read_marker(Path(folder) / MARKER))


def lock_file(file: IO[str], *, shared: bool = False) -> None:
    """Lock an open file until it is closed or its process ends. BlockingIOError if another process has locked it.

    `shared`: others that do so may lock it, too (not on Windows).
    """
    try:
        if os.name == "nt":
            _lock_byte(file.fileno())
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise BlockingIOError(f"{file.name} is locked by another process") from error
    except OSError:
        return  # a file system without locks, e.g. some network ones


def _lock_byte(descriptor: int) -> None:
    """Lock the byte at LOCKED_BYTE, far beyond the end of the file. PermissionError if another process has locked it.

    Windows lets no other process read locked bytes, and those of the content must stay readable.
    """
    import msvcrt

    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
