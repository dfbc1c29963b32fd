"""A checksum inside an exported file (.onnx; .xml and the .bin beside it), because these formats have none.

The record has room for it (`UNSEALED`); `seal` computes it with the room empty and fills it in. Programs that edit such
files on purpose may keep the old one, so a difference is no error.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path

MARK = b"rcnn-sha256-"
EMPTY = b"0" * 64
UNSEALED = (MARK + EMPTY).decode()
_STORED = re.compile(re.escape(MARK) + rb"([0-9a-f]{64})")


def seal(path: Path) -> None:
    """Write the checksum of the file `path` into its record."""
    found = _stored_and_own(path)
    if found is None:
        raise ValueError(f"{path} has no room for a checksum")
    place, _, own = found
    with path.open("r+b") as file:
        file.seek(place)
        file.write(own)


def is_changed(path: Path) -> bool:
    """Whether the bytes of a file differ from those that were sealed; False for one that was never sealed."""
    found = _stored_and_own(path)
    return found is not None and found[1] not in (EMPTY, found[2])


def _stored_and_own(path: Path) -> tuple[int, bytes, bytes] | None:
    """Where the checksum is in the file, the stored one, and that of the bytes; None if there is no room for one."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = _STORED.search(content)
        if match is None:
            return None
        place, end, stored = match.start(1), match.end(1), match.group(1)
        with memoryview(content) as view:
            digest = hashlib.sha256(view[:place])
            digest.update(EMPTY)
            digest.update(view[end:])
    if path.suffix == ".xml":
        with path.with_suffix(".bin").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return place, stored, digest.hexdigest().encode()
