"""Files and folders that are complete or absent after a kill, a power failure or a full disk."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".rcnn-writing-"  # start of the names of files and folders that are not complete yet
REPLACED = ".rcnn-replaced-"  # start of the name of the old folder while it is replaced
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming(path: Path, size: int = 0) -> Iterator[None]:
    """Raise a disk-full error within the block again with `path` and `size` (bytes; 0: unknown) in its message.

    The original error has no useful path: a write does not know its file, and a copy names a temporary one.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise _full(error.errno, path, size) from error


def _full(number: int, path: Path, size: int) -> OSError:
    needed = f", and {size / 1e6:,.1f} MB are needed" if size else ""
    return OSError(number, os.strerror(number) + needed, str(path))


def free_space(path: Path) -> float:
    """The free bytes on the disk of `path`, which does not have to exist yet.

    Infinity if its file system does not say: /proc, where nothing can be written, and some network file systems.
    """
    place = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    disk = shutil.disk_usage(place)
    return disk.free if disk.total else math.inf


def require_space(path: Path, size: int) -> None:
    """Raise OSError, which names `path`, if fewer than `size` bytes are free on its disk."""
    if free_space(path) < size:
        raise _full(errno.ENOSPC, path, size)


def replace_folder(folder: Path, fill: Callable[[Path], object], size: int = 0, *, names: Collection[str] = ()) -> None:
    """Let `fill` write the files of a new folder, then replace `folder` by it.

    A kill or a power failure at any moment leaves either the earlier or the new folder complete; see `recover_folder`.
    `names`: of all files that `fill` may write. What else is in `folder`, e.g. notes of the user, is moved to the new
    one. `size`: approximate size of the new folder in bytes; OSError if less space is free, before anything is written.
    """
    recover_folder(folder, names=names)
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder, size)
    new, replaced = (folder.with_name(start + folder.name) for start in (TEMPORARY, REPLACED))
    try:
        with naming(folder, size):
            new.mkdir()
            fill(new)
            for path in (*new.rglob("*"), new):
                sync(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(new, folder)
    sync(folder.parent)
    _move_others(replaced, folder, names)
    shutil.rmtree(replaced, ignore_errors=True)


def _move_others(source: Path, target: Path, names: Collection[str]) -> None:
    """Move what is in the folder `source` to `target`, except what has one of the `names` or is there already."""
    for path in source.iterdir() if source.is_dir() else ():
        if path.name not in names and not os.path.lexists(target / path.name):
            os.rename(path, target / path.name)


def recover_folder(folder: Path, *, names: Collection[str] = ()) -> None:
    """Finish a `replace_folder` that was killed: restore the earlier folder if the new one is not in place yet.

    `names` as there.
    """
    new, replaced = (folder.with_name(start + folder.name) for start in (TEMPORARY, REPLACED))
    if not folder.exists() and replaced.exists():
        os.rename(replaced, folder)
    _move_others(replaced, folder, names)
    for leftover in (new, replaced):
        shutil.rmtree(leftover, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal text; the file is not read into memory at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file or folder to the disk (fsync). Windows does not support this for folders; there it does nothing."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
