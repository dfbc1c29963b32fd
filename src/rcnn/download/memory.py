"""Downloads a small file into memory: bounded in size and time, in one attempt."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

from rcnn.background import in_background
from rcnn.download.http import (
    TEMPORARY_STATUS,
    DownloadError,
    RefusedError,
    failure_text,
    open_url,
    status_text,
)
from rcnn.text_files import without_controls

MAX_DOWNLOAD = 64 * 2**20  # bytes
TIMEOUT = 20.0  # seconds without an answer, or with fewer than SLOWEST bytes
SLOWEST = 16 * 2**10  # bytes in TIMEOUT seconds
DEADLINE = 120.0  # seconds for a whole download


def download(url: str, *, longest: int = MAX_DOWNLOAD, timeout: float = TIMEOUT, deadline: float = DEADLINE) -> bytes:
    """Download an http or https URL into memory; returns the content.

    Raises DownloadError if the server refuses the request, the content is longer than `longest` bytes, fewer than
    SLOWEST bytes arrive in `timeout` seconds, or the download is not complete after `deadline` seconds.
    """
    content = bytearray()
    future = in_background(_download, url, longest, timeout, content)
    started = window = time.monotonic()
    before = 0  # bytes at the start of the window
    while True:
        try:
            return future.result(timeout=min(timeout, deadline, 1.0))
        except TimeoutError:
            if future.done():  # since the wait ended; or this is an error of the download itself
                return future.result()
        now, size = time.monotonic(), len(content)
        if now - started > deadline:
            raise DownloadError(
                f"the download took longer than {deadline:g} seconds; download it yourself and give the file"
            )
        if size - before >= SLOWEST:
            window, before = now, size
        elif now - window > timeout:
            slow = f"only {size - before} bytes" if size else "no answer"
            raise DownloadError(
                f"{slow} within {timeout:g} seconds; try again, or download it yourself and give the file"
            )


def _escaped(url: str) -> str:
    """`url` with percent-encoding, as in browsers, for characters that a request cannot contain, e.g. spaces and é."""
    parts = urllib.parse.urlsplit(url)
    path, query = (
        urllib.parse.quote(part, safe="%/:;=&?@!$'()*+,[]~", errors="surrogateescape")
        for part in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _download(url: str, longest: int, timeout: float, content: bytearray) -> bytes:
    """Download `url` and append the bytes to `content` as they arrive; returns the complete content."""
    headers = {"User-Agent": "rcnn", "Accept-Encoding": "identity"}
    too_large = DownloadError(f"it is larger than {longest / 2**20:g} MiB; download it yourself and give the file")
    try:
        request = urllib.request.Request(_escaped(url), headers=headers)
        with open_url(request, timeout, 2 * timeout) as answer:
            expected = answer.length  # None if the server does not say
            encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise DownloadError(
                    f"the server sent it compressed ({without_controls(encoding[:40])}), expected the file as it is; "
                    "download it yourself and give the file"
                )
            if expected is not None and expected > longest:
                raise too_large
            while piece := answer.read1(1 << 16):
                content += piece
                if len(content) > longest:
                    raise too_large
    except urllib.error.HTTPError as error:
        advice = "try again later" if error.code in TEMPORARY_STATUS else "check the URL"
        raise DownloadError(f"{status_text(error)}; {advice}") from error
    except RefusedError as error:
        raise DownloadError(f"{error}; check the URL") from error
    except TimeoutError as error:
        raise DownloadError(
            f"no answer within {timeout:g} seconds; try again, or download it yourself and give the file"
        ) from error
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{failure_text(error)}; check the URL and the network") from error
    if expected is not None and expected != len(content):
        raise DownloadError(f"the download ended after {len(content)} of {expected} bytes; try again")
    return bytes(content)
