"""Reads zip files after checks: no overlapping or duplicate members, no member that unpacks to far more than its size.

Nothing is unpacked to disk, so paths and links inside a zip file have no effect.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rcnn.weights.readers.stored import Damaged, Refused, file_bytes, require_room

MAGIC = b"PK\x03\x04"
EMPTY = b"PK\x05\x06"  # start of the record after the directory; an empty zip file has only this record
MAX_MEMBERS = 65_000  # Python reads longer lists slowly; the largest checkpoints have thousands
FREE_BYTES = 1 << 26  # bytes that a compressed member may unpack to, plus 16 times its compressed size
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class Member:
    """A member of a zip file."""

    name: str
    size: int  # bytes, unpacked
    crc: int  # CRC-32 of its bytes, as the zip file states it
    start: int  # offset of its bytes in the zip file if they are not compressed, else -1
    read: Callable[[], bytes]
    head: Callable[[int], bytes]  # number of bytes -> that many first bytes


def zip_members(path: Path) -> dict[str, Member]:
    """The members of `path` by name. Raises Damaged and Refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        _require_sane_end(file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, struct.error, OverflowError, NotImplementedError) as error:
            raise Damaged(f"its directory cannot be read: {error}") from error
        require_room(sum(info.file_size for info in infos), size)
        members: dict[str, Member] = {}
        ends = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.filename in members:
                raise Refused(f"two members with the name {info.filename[:100]!r}")
            if info.flag_bits & 1:
                raise Refused("encrypted members")
            start = _data_start(file, info)
            if info.header_offset < ends or start + info.compress_size > size:
                raise Refused(f"members that overlap ({info.filename[:100]!r})")
            ends = start + info.compress_size
            members[info.filename] = _member(path, info, start)
    return members


def _member(path: Path, info: zipfile.ZipInfo, start: int) -> Member:
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            raise Damaged(f"{info.filename[:100]!r} has {info.compress_size} bytes, its header says {info.file_size}")

        def head(count: int) -> bytes:
            return file_bytes(path, start, min(count, info.file_size))

        return Member(info.filename, info.file_size, info.CRC, start, lambda: _whole(head(info.file_size), info), head)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise Refused(f"compression method {info.compress_type}; expected deflate or none")

    require_room(info.file_size, info.compress_size, FREE_BYTES)

    def unpacked(count: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as file:
                return file.read(min(count, info.file_size))
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, zlib.error) as error:
            raise Damaged(f"{info.filename[:100]!r}: {error}") from error

    return Member(info.filename, info.file_size, info.CRC, -1, lambda: _whole(unpacked(info.file_size), info), unpacked)


def _whole(content: bytes, info: zipfile.ZipInfo) -> bytes:
    if len(content) != info.file_size:
        raise Damaged(f"{info.filename[:100]!r} ends after {len(content)} of {info.file_size} bytes")
    return content


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    head = file.read(_LOCAL.size)
    if len(head) != _LOCAL.size or not head.startswith(MAGIC):
        raise Damaged(f"{info.filename[:100]!r} is not where the directory says")
    fields = _LOCAL.unpack(head)
    return info.header_offset + _LOCAL.size + fields[-2] + fields[-1]


def _require_sane_end(file: BinaryIO, size: int) -> None:
    """Raise Damaged or Refused unless the directory is inside the file and short enough to be read."""
    tail = min(size, 22 + 65_535)
    file.seek(size - tail)
    content = file.read(tail)
    at = content.rfind(EMPTY)
    if at < 0 or len(content) - at < 22:
        raise Damaged("its directory, which is at the end, is missing")
    count, length = struct.unpack("<HI", content[at + 10 : at + 16])
    # zip64: numbers too large for these fields precede them
    if content[at - 20 : at - 16] == b"PK\x06\x07" and at >= 20:
        position = struct.unpack("<Q", content[at - 12 : at - 4])[0]
        file.seek(min(position, size))
        record = file.read(56)
        if len(record) != 56 or not record.startswith(b"PK\x06\x06"):
            raise Damaged("its directory, which is at the end, is missing")
        count, length = struct.unpack("<QQ", record[32:48])
    if count > MAX_MEMBERS or length > 512 * MAX_MEMBERS:
        raise Refused(f"{count} members in a directory of {length} bytes (at most {MAX_MEMBERS} members)")
