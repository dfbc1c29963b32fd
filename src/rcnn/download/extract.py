"""Unpacks zip and tar archives of unknown origin: only plain files, only below the given folder, only up to a size."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from rcnn.download.fetch import megabytes
from rcnn.outputs import free_space

MAX_RATIO, ALLOWANCE = 25, 1 << 26  # unpacked bytes: up to 25 per byte of the archive, plus 64 MiB
MAX_FILES = 1_000_000
JUNK = ("__MACOSX", ".DS_Store")  # what macOS adds to archives
_BLOCK = 1 << 20
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


class ArchiveError(ValueError):
    """An archive that is damaged, or contains something that is not unpacked. The message says what, and what to do."""


def extract(archive: Path, folder: Path, *, advance: Callable[[], None] | None = None) -> list[str]:
    """Unpack a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz into an empty folder; returns its top-level names.

    `advance` is called once per file. Raises ArchiveError for a damaged archive, and for links, devices, absolute
    names, names with "..", a name that is used twice, and archives that unpack to far more than their size. Nothing is
    written outside `folder`. Files that were unpacked before the error remain in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limit = int(min(MAX_RATIO * archive.stat().st_size + ALLOWANCE, free_space(folder)))
    seen: set[str] = set()
    total = 0
    try:
        for name, source in _files(archive):
            path = _safe(name, archive)
            if JUNK[0] in path.parts or path.name in JUNK:
                continue
            if str(path).casefold() in seen or len(seen) >= MAX_FILES:
                why = f"more than {MAX_FILES:,} files" if len(seen) >= MAX_FILES else f"{name!r} twice"
                raise ArchiveError(f"{archive} contains {why}, so it is not unpacked")
            seen.add(str(path).casefold())
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                total += _copy(source, file, limit - total, archive)
            if advance is not None:
                advance()
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; damaged bz2 data has no number
            raise
        raise ArchiveError(f"{archive} is damaged ({error}): delete it and download it again") from error
    if not seen:
        raise ArchiveError(f"{archive} contains no files: delete it and download it again")
    return sorted(path.name for path in folder.iterdir())


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each plain file. Raises ArchiveError for links, devices and encrypted files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if entry.is_dir():
                    continue
                if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
                    what = "an encrypted file" if entry.flag_bits & 1 else "a link or device"
                    raise ArchiveError(f"{archive} contains {what}, {entry.filename!r}, which is not unpacked")
                try:
                    source = packed.open(entry)
                except NotImplementedError as error:
                    raise ArchiveError(
                        f"{archive}: {entry.filename!r} cannot be unpacked ({error}): pack the files again, with a "
                        "common compression (deflate)"
                    ) from error
                with source:
                    yield entry.filename, source
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                source = tar.extractfile(member) if member.isreg() else None
                if source is None:
                    raise ArchiveError(f"{archive} contains a link or device, {member.name!r}, which is not unpacked")
                yield member.name, source
            while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
                pass  # reads to the end: the checksum of a compressed archive is compared there
    else:
        raise ArchiveError(f"{archive} is neither a zip nor a tar archive: delete it and download it again")


def _safe(name: str, archive: Path) -> PurePosixPath:
    """`name` as a path relative to the folder. Raises ArchiveError if that would be outside the folder.

    The same for names that are not names of one file on every system.
    """
    if any(mark in name for mark in ("\\", ":", "\0")):
        raise ArchiveError(
            f"{archive} contains the name {name!r}, which has a backslash, colon or null character: it is not "
            "unpacked. Rename the file and pack the files again"
        )
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts or not parts:
        raise ArchiveError(f"{archive} contains the name {name!r}, which is outside its folder: it is not unpacked")
    return PurePosixPath(*parts)


def _copy(source: IO[bytes], file: IO[bytes], limit: int, archive: Path) -> int:
    """Copy `source` to `file`; returns the number of bytes.

    Raises ArchiveError after `limit` bytes. The bytes are counted during the copy, because headers may be wrong.
    """
    count = 0
    while block := source.read(_BLOCK):
        count += len(block)
        if count > limit:
            raise ArchiveError(
                f"{archive} ({megabytes(archive.stat().st_size)}) unpacks to more data than fits on the disk, or to "
                "far more than its size suggests, so it is not unpacked"
            )
        file.write(block)
    return count
