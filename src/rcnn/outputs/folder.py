"""The one rule for output folders: nothing that rcnn did not write is ever overwritten.

    with OutputFolder("found") as output:          # locked: an error in a second process that opens it
        output.require_free("predictions.json")    # an error before any work, if the name is not free
        picture = output.free_name("photo.jpg")    # or take another name: photo-2.jpg
        with output.writing(picture) as path:      # a temporary path, renamed to `picture` when the block ends
            image.save(path)
        output.write_json("predictions.json", found)

The file `.rcnn-files` in the folder (the marker) lists what rcnn wrote there, one JSON object per line, with a digest.
A file is replaced only if it is listed and still has that content, and only when the new content is complete. Symbolic
links inside the folder are never followed or replaced. The folder itself may be a link, because the user gave its path.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shlex
import shutil
import weakref
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from rcnn.arguments import OUTPUT, as_path
from rcnn.outputs.durable import DISK_FULL, TEMPORARY, naming, sha256_of, sync
from rcnn.outputs.marker import CHOOSE, CHOOSE_FOLDER, MARKER, REMOVED, drop_unfinished_line, locked_marker, read_marker

COMPLETE = ".rcnn-complete-"  # start of the names of folders with complete files that are still to be moved
NAME_BYTES = 255  # limit of a file name on Linux, macOS and Windows
ANY_CONTENT = "any"  # in place of a digest: files that grow (log.jsonl) and folders (last/)
# ENOENT: below /proc, whose folder exists; EINVAL: characters that the file system does not take
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT, errno.EINVAL, errno.ENOTSUP)
# endings of files that a command writes, or that its users have; a folder of such a name was probably meant as a file
FILE_ENDINGS = (
    ".html", ".htm", ".json", ".jsonl", ".csv", ".txt", ".yaml", ".yml", ".xml", ".pdf", ".svg", ".jpg", ".jpeg",
    ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".pt", ".pth", ".pkl",
    ".pt2", ".safetensors", ".onnx", ".npz", ".npy", ".zip", ".gz", ".tar", ".log",
)  # fmt: skip


class OutputFolder:
    """A folder that one process writes to. Names are relative to it, e.g. `predictions.json` or `a/photo.jpg`."""

    def __init__(self, path: str | Path, *, advice: str = CHOOSE_FOLDER) -> None:
        """Create the folder if needed, and lock it until `close`. Works as a context manager.

        `advice`: what to do if it cannot be written.
        Raises NotADirectoryError if `path` is a file, FileExistsError if the marker is not rcnn's, BlockingIOError if
        another process has the folder locked, another OSError if it cannot be written.
        """
        self.path = as_path(path, OUTPUT)
        self._numbers = itertools.count(1)
        try:
            require_folder(self.path)
            self._created = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._marker: IO[str] | None = locked_marker(self.path)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise type(error)(f"{self.path} cannot be written ({error.strerror}): {advice}") from error
        _OPEN.add(self)
        try:
            self._written = read_marker(self.path / MARKER)
            drop_unfinished_line(self._marker)
        except BaseException:
            self._marker.close()
            raise
        for complete in self.path.glob(f"{COMPLETE}*"):  # left by a process that was killed: this one holds the lock
            self._move_out_of(complete)
        for leftover in self.path.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, OSError) and error.errno in DISK_FULL and not error.filename:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Release the lock. If nothing was ever written, remove the marker, and the folder if it is new."""
        if self._marker is None:
            return
        if not self._written:
            with suppress(OSError):  # Windows cannot remove an open file
                (self.path / MARKER).unlink()
                if self._created:
                    self.path.rmdir()  # fails if the folder is not empty
        with suppress(OSError):  # of a full disk, which `_record` has reported
            self._marker.close()
        self._marker = None

    def is_free(self, name: str | PurePath) -> bool:
        """Whether `name` may be written: it does not exist, or rcnn wrote it and nobody changed it since."""
        return self._obstacle(_relative(name)) is None

    def require_free(self, *names: str | PurePath) -> None:
        """Raise FileExistsError unless every one of `names` may be written. Call it before any work."""
        for name in names:
            if obstacle := self._obstacle(_relative(name)):
                raise FileExistsError(obstacle)

    def free_name(self, name: str | PurePath, taken: Container[str] = ()) -> str:
        """`name`, or `name-2`, `name-3`, ... if `name` may not be written, or is in `taken` (lower case).

        The stem is shortened if the name is too long. Raises FileExistsError if no number helps: a folder of the name
        is a link or a file, or rcnn uses the name itself.
        """
        path, number = _relative(name), 1
        if obstacle := self._obstacle_of_all_numbers(path):
            raise FileExistsError(obstacle)
        while not self.is_free(candidate := numbered(path, number)) or str(candidate).lower() in taken:
            number += 1
        return str(candidate)

    @contextmanager
    def writing(self, name: str | PurePath, *, durable: bool = False) -> Iterator[Path]:
        """A temporary path with the suffix of `name`; its file becomes `name` when the block ends without an error.

        `durable`: the file survives a power failure (fsync). Raises FileExistsError, before or after the block, if
        `name` may not be written.
        """
        self.require_free(name)
        relative = _relative(name)
        temporary = self.path / f"{TEMPORARY}{next(self._numbers)}{relative.suffix[:16]}"
        target = self.path / relative
        try:
            with naming(target):
                yield temporary
            self.require_free(name)  # again: the user may have created the file meanwhile
            target.parent.mkdir(parents=True, exist_ok=True)
            if durable:
                sync(temporary)
            self._record(relative, sha256_of(temporary))  # before the rename: a kill in between loses nothing
            os.replace(temporary, target)
            if durable:
                sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def writing_together(self, *names: str) -> Iterator[Path]:
        """An empty temporary folder; its files `names` are moved here when the block ends without an error.

        All are complete and on disk before the first is moved. If the process is killed between two moves, the next
        process that opens the folder finishes them. Raises FileExistsError if a name may not be written.
        """
        self.require_free(*names)
        number = next(self._numbers)
        temporary, complete = self.path / f"{TEMPORARY}{number}", self.path / f"{COMPLETE}{number}"
        temporary.mkdir()
        try:
            with naming(self.path):
                yield temporary
            self.require_free(*names)
            for name in names:
                sync(temporary / name)
                self._record(_relative(name), sha256_of(temporary / name))
            os.rename(temporary, complete)
            self._move_out_of(complete)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def write_text(self, name: str | PurePath, text: str, *, durable: bool = False) -> Path:
        """Write `text` to the file `name` atomically, and return its path.

        Characters that UTF-8 cannot encode (bytes of a file name in another encoding) are escaped, e.g. `\\udce9`.
        """
        with self.writing(name, durable=durable) as path:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return self.path / name

    def write_json(self, name: str | PurePath, value: Any, *, indent: int | None = None, durable: bool = False) -> Path:
        """Write `value` to the JSON file `name` atomically, and return its path."""
        return self.write_text(name, json.dumps(value, indent=indent) + "\n", durable=durable)

    def claim(self, name: str | PurePath) -> Path:
        """The path of a file or folder that the caller writes itself (log.jsonl, last/), recorded as rcnn's.

        Raises FileExistsError if `name` may not be written.
        """
        self.require_free(name)
        return self.adopt(name)

    def adopt(self, name: str | PurePath) -> Path:
        """Record `name` as rcnn's, whatever it contains. For callers that recognise their own files by content."""
        relative = _relative(name)
        if ANY_CONTENT not in self._written.get(str(relative), ()):
            self._record(relative, ANY_CONTENT)
        return self.path / relative

    def names(self) -> frozenset[str]:
        """The names of the files and folders that rcnn wrote here, in this process or an earlier one."""
        return frozenset(self._written)

    def remove(self, name: str | PurePath) -> bool:
        """Remove a file if rcnn wrote it and nobody has changed it since. Returns whether it was removed."""
        relative = _relative(name)
        path, digests = self.path / relative, self._written.get(str(relative), set[str]())
        if not digests or ANY_CONTENT in digests or not path.is_file() or self._obstacle(relative) is not None:
            return False
        path.unlink()
        return True

    def discard(self, name: str | PurePath) -> None:
        """Remove a file as `remove` does, also one of `claim`. A later file of its name is not taken for rcnn's."""
        relative = _relative(name)
        if self._written.get(str(relative)) and self._obstacle(relative) is None:
            (self.path / relative).unlink(missing_ok=True)
            self._record(relative, REMOVED)

    def _move_out_of(self, complete: Path) -> None:
        """Move the files of a folder of `writing_together` here, but do not replace files that a user has changed."""
        sync(self.path)
        for file in sorted(complete.iterdir()):
            if self.is_free(file.name):
                os.replace(file, self.path / file.name)
        sync(self.path)
        shutil.rmtree(complete, ignore_errors=True)

    def _obstacle(self, relative: PurePosixPath) -> str | None:
        """Why `relative` may not be written, as a message; None if it may."""
        if obstacle := self._obstacle_of_all_numbers(relative):
            return obstacle
        path, digests = self.path / relative, self._written.get(str(relative), set[str]())
        if path.is_symlink():
            return f"{path} is a symbolic link, which rcnn does not replace: {CHOOSE}"
        if not path.exists() or ANY_CONTENT in digests:
            return None
        if not digests or not path.is_file():
            return f"{path} exists and was not written by rcnn: {CHOOSE}"
        return None if sha256_of(path) in digests else f"{path} was changed after rcnn wrote it: {CHOOSE}"

    def _obstacle_of_all_numbers(self, relative: PurePosixPath) -> str | None:
        """Why neither `relative` nor `relative` with a number may be written, as a message; None if one may."""
        for parent in [*relative.parents][-2::-1]:  # outermost first, without "."
            folder = self.path / parent
            if folder.is_symlink():
                return f"{folder} is a symbolic link, which rcnn does not follow: {CHOOSE}"
            if folder.exists() and not folder.is_dir():
                return f"{folder} is a file; expected a folder: {CHOOSE}"
        if relative.name.startswith((TEMPORARY, COMPLETE)) or str(relative) == MARKER:
            return f"{self.path / relative} is a name that rcnn uses itself: choose another name"
        return None

    def _record(self, relative: PurePosixPath, digest: str) -> None:
        if self._marker is None:
            raise ValueError(f"{self.path} is closed; open it again to write")
        with naming(self.path / MARKER):
            self._marker.write(json.dumps({"file": str(relative), "sha256": digest}) + "\n")
            self._marker.flush()
        self._written[str(relative)] = set() if digest == REMOVED else {*self._written.get(str(relative), ()), digest}


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """`a/photo.jpg` for 1, `a/photo-2.jpg` for 2, ...; the stem is cut if the name exceeds 255 bytes."""
    ending = ("" if number == 1 else f"-{number}") + path.suffix
    stem = os.fsencode(path.stem)[: NAME_BYTES - len(os.fsencode(ending))].decode("utf-8", "ignore")
    return path.with_name(stem + ending)


def finish_moves(folder: Path) -> None:
    """Finish a `writing_together` in `folder` that was killed; do nothing if another process writes there."""
    if any(folder.glob(f"{COMPLETE}*")):
        with suppress(OSError):
            OutputFolder(folder).close()


def _relative(name: str | PurePath) -> PurePosixPath:
    path = PurePosixPath(PurePath(name).as_posix())
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name} is not a name inside the output folder: expected e.g. a/photo.jpg")
    return path


def require_folder(path: Path) -> None:
    """Check that `path` is a folder or can be created.

    NotADirectoryError if it is a file or below one, FileNotFoundError if a part of it is a broken symbolic link,
    PermissionError if nothing can be created where it would be, ValueError if no file can have the path, or if it does
    not exist and ends like the name of a file (FILE_ENDINGS).
    """
    as_path(path, OUTPUT)
    if path.suffix.lower() in FILE_ENDINGS and not os.path.lexists(path):
        raise ValueError(
            f"{path} is the name of a file ({path.suffix}); expected a folder, to which rcnn writes its files: give "
            f"another output, e.g. --output {shlex.quote(str(path.with_suffix('')))}"
        )
    for one in (path, *path.parents):
        if one.is_symlink() and not one.exists():
            reason = "its target does not exist, or it leads back to itself"
            raise FileNotFoundError(f"{one} is a broken symbolic link ({reason}): {CHOOSE_FOLDER}")
        if one.exists():
            if one.is_dir():
                if one != path and not os.access(one, os.W_OK | os.X_OK):
                    reason = f"no permission to write to {one}"
                    raise PermissionError(f"{path} cannot be written ({reason}): {CHOOSE_FOLDER}")
                return
            raise NotADirectoryError(f"{one} is a file; expected a folder: {CHOOSE_FOLDER}")


def _release_after_fork() -> None:
    """In a forked process: close the inherited markers; else the locks would outlive the process that took them."""
    for folder in _OPEN:
        if folder._marker is not None:
            folder._marker.close()
            folder._marker = None


_OPEN: weakref.WeakSet[OutputFolder] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_release_after_fork)
