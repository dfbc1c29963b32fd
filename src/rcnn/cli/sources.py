"""What `rcnn predict` is given, files, folders and URLs, as images one after the other."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm")
LONGEST_DOWNLOAD = 64 * 2**20  # bytes
TIMEOUT = 20.0  # seconds without an answer
DEADLINE = 120.0  # seconds for one whole image


class SourceError(ValueError):
    """Something that was asked for is not there, or is no image. The message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One image to be: where it comes from, and what to call the picture that is made of it."""

    name: str  # as it stands in predictions.json: the path as given (a folder's with the rest joined on), or the URL
    picture: Path  # relative to the output folder, ends in .jpg; no two sources have the same
    url: bool = False

    def read(self) -> Path | bytes:
        """What the decoder takes: a path, or the bytes of a download. Raises SourceError where a URL gives none."""
        return download(self.name) if self.url else Path(self.name)


def is_url(word: str) -> bool:
    """Whether `word` names a scheme, so that it is no path: http://..., ftp://..."""
    return "://" in word


def expand(words: Iterable[str], output: Path) -> tuple[list[Source], list[tuple[str, str]]]:
    """The images of files, folders (all below them, by name, files that are no images skipped) and URLs, in this order.

    Beside them what gives none, as (name, what is wrong with it). What lies in `output` is left out of folders, so that
    pictures of an earlier call are not taken for photos.
    """
    sources: list[Source] = []
    wrong: list[tuple[str, str]] = []
    taken: set[str] = set()
    for word in words:
        if is_url(word):
            scheme, _, path = urllib.parse.urlsplit(word)[:3]
            if scheme.lower() not in ("http", "https"):
                wrong.append((word, f"{scheme}:// is not read; give an http:// or https:// address, or a file"))
                continue
            last = Path(urllib.parse.unquote(path)).name or "download"
            sources.append(Source(name=word, picture=_free(Path(last), taken), url=True))
        elif Path(word).is_dir():
            found = list(images_below(Path(word), output))
            if not found:
                wrong.append((word, f"holds no image; wanted files ending {' '.join(IMAGE_SUFFIXES)}"))
            for path in found:
                sources.append(Source(name=str(path), picture=_free(path.relative_to(word), taken)))
        elif Path(word).exists():
            sources.append(Source(name=word, picture=_free(Path(Path(word).name), taken)))
        else:
            wrong.append((word, "does not exist; give a file, a folder, or an http(s) address"))
    return sources, wrong


def images_below(folder: Path, output: Path) -> Iterator[Path]:
    """Image files in `folder` and its folders, sorted by path; hidden ones and those in `output` are left out."""
    without = output.resolve()
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(here) / f).resolve() != without)
        if Path(here).resolve() == without:
            return
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(here) / name


def _free(path: Path, taken: set[str]) -> Path:
    """`path` ending .jpg, numbered where another source has that name, upper and lower case being the same."""
    stem, number = path.with_suffix(""), 1
    candidate = stem.with_name(stem.name + ".jpg")
    while str(candidate).lower() in taken:
        number += 1
        candidate = stem.with_name(f"{stem.name}-{number}.jpg")
    taken.add(str(candidate).lower())
    return candidate


def download(
    url: str, *, longest: int = LONGEST_DOWNLOAD, timeout: float = TIMEOUT, deadline: float = DEADLINE
) -> bytes:
    """What lies at an http(s) address. SourceError: refused, over `longest` bytes, or not there in so many seconds."""
    request = urllib.request.Request(url, headers={"User-Agent": "rcnn"})
    until = time.monotonic() + deadline
    pieces, size = [], 0
    try:
        with _opener().open(request, timeout=timeout) as answer:
            while piece := answer.read(1 << 16):
                pieces.append(piece)
                size += len(piece)
                if size > longest:
                    raise SourceError(f"is longer than {longest / 2**20:g} MiB; download it and give the file")
                if time.monotonic() > until:
                    raise SourceError(f"took longer than {deadline:g} seconds; download it and give the file")
            wanted = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise SourceError(f"the server answered {error.code} {error.reason}; check the address") from error
    except TimeoutError as error:
        raise SourceError(
            f"no answer within {timeout:g} seconds; try again, or download it and give the file"
        ) from error
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"cannot be downloaded ({reason}); check the address and the network") from error
    if wanted is not None and wanted.isdigit() and int(wanted) != size:
        raise SourceError(f"broke off after {size} of {wanted} bytes; try again")
    return b"".join(pieces)


def _opener() -> urllib.request.OpenerDirector:
    """Reads http and https, and nothing else: urllib's own would follow a redirect to ftp, and read files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
