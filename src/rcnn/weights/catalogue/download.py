"""Downloads one file."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path


def download(url: str, file: Path, *, check: Callable[[Path], None], log: Callable[[str], object]) -> None:
    """Interim."""
    part = file.with_name(file.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=10) as answer, part.open("wb") as opened:
            while piece := answer.read(1 << 20):
                opened.write(piece)
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(str(getattr(error, "reason", None) or error)) from error
    check(part)
    part.rename(file)
