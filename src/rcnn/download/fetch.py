"""Downloads one file: resumes after an interruption, checks size and hash, and gives the file its name when complete.

    fetch(["https://example.org/val.zip"], folder / "val.zip", digest="sha256:4f7e...", size=815585330)

While a file is incomplete it is called NAME.part; NAME.part.json records its URL and version.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rcnn.download.http import (
    TEMPORARY_STATUS,
    DownloadError,
    RefusedError,
    failure_text,
    open_url,
    status_text,
)
from rcnn.outputs import free_space
from rcnn.progress import ByteCounter

PATIENCE = 16.0  # seconds without MIN_BYTES new bytes, over all attempts; so a command ends within 30 seconds
MIN_BYTES = 16 * 1024
NAME_PATIENCE = 5.0  # seconds to resolve the name of a server, over all attempts; after that, there is no network
MAX_RESTARTS = 4  # from the first byte on, if connections end early and the server names no version or ignores Range
TIMEOUT = 10.0  # seconds for a connection or one read
_BLOCK = 1 << 16


def fetch(
    urls: str | Sequence[str],
    target: Path,
    *,
    digest: str = "",
    size: int | None = None,
    progress: ByteCounter | None = None,
    patience: float = PATIENCE,
    on_complete: Callable[[], object] | None = None,
) -> Path:
    """Download a file to `target` from the first of `urls` (mirrors) that has it; returns `target`.

    `digest` is its published hash, e.g. "sha256:4f7e..." or "md5:442b...", `size` its number of bytes. An interrupted
    download continues where it stopped, if the server supports that. `on_complete` is called when the file is complete
    and checked, before it gets its name. Raises DownloadError at most `patience` seconds after the last bytes arrived,
    and IsADirectoryError if `target` is a folder.
    """
    left = [urls] if isinstance(urls, str) else list(urls)
    transfer = _Transfer(target, digest, size, progress, patience, on_complete)
    transfer.prepare_places()
    reasons: dict[str, str] = {}
    attempt = 0
    while left:
        url = left[attempt % len(left)]
        try:
            transfer.attempt(url)
        except RefusedError as error:
            reasons[url] = str(error) + _through(url)
            left.remove(url)
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            reasons[url] = failure_text(error) + _through(url)
            wait = 0.5 * 2 ** min(attempt, 4)
            longest = min(patience, NAME_PATIENCE) if isinstance(error, UnknownHostError) else patience
            if transfer.idle() + wait > longest:
                break
            time.sleep(wait)
        else:
            return target
        attempt += 1
    listed = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    advice = (
        "Check the network and the proxy settings (HTTPS_PROXY), then run the same command again: it continues where "
        "it stopped"
        if left
        else f"Download it with a browser and save it as {target}, or try again later"
    )
    raise DownloadError(f"{target.name} was not downloaded ({listed}). {advice}")


class UnknownHostError(ConnectionError):
    """The name of a server cannot be resolved, usually because there is no network."""


class _Transfer:
    """The download of one file: its incomplete file, and the time when the last bytes arrived."""

    def __init__(
        self,
        target: Path,
        digest: str,
        size: int | None,
        progress: ByteCounter | None,
        patience: float,
        on_complete: Callable[[], object] | None,
    ) -> None:
        self.target, self.digest, self.size, self.progress = target, digest, size, progress
        self.part = _part_of(target)
        self.note = _note_of(target)
        self.patience, self.on_complete = patience, on_complete
        self.last = time.monotonic()
        self.starts = 0  # answers with the file from its first byte on

    def prepare_places(self) -> None:
        """Raise IsADirectoryError if a folder is where a file is written, before anything is downloaded.

        Links in the place of the incomplete file and its note are removed: their targets are files of the user.
        """
        for path in (self.target, self.part, self.note):
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder; expected the downloaded file or nothing: remove it")
        for path in (self.part, self.note):
            if path.is_symlink():
                path.unlink()

    def idle(self) -> float:
        """Seconds since the last MIN_BYTES arrived."""
        return time.monotonic() - self.last

    @property
    def timeout(self) -> float:
        """Seconds to connect, and again to wait for the response: both together hardly exceed the patience."""
        return min(TIMEOUT, max(0.25, (self.patience - self.idle()) / 2))

    def attempt(self, url: str) -> None:
        """Continue or start the download from one URL, and give the file its name when it is complete."""
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise RefusedError(f"the URL starts with {scheme}:, expected https: or http:")
        start = self._resumable(url)
        if start and start == self.size:  # complete: a run was stopped while it computed the hash
            self._finish(resumed=True)
            return
        if self.starts > MAX_RESTARTS:
            raise RefusedError(f"the server ended {MAX_RESTARTS + 1} downloads before the end, and cannot continue one")
        require_host(url, self.timeout)
        headers = {"User-Agent": "rcnn (https://github.com/rcnn/rcnn)", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": self._noted()["validator"]}
        request = urllib.request.Request(url, headers=headers)
        try:
            response = open_url(request, self.timeout, 2 * self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # there are no more bytes: the part is complete, or longer than the file
                offered = _range(error.headers.get("Content-Range", ""))[1]
                if offered == start and self.size in (None, start):
                    self._finish(resumed=True)
                    return
                self._forget()
                raise ConnectionError("the incomplete file does not match the file on the server") from error
            if error.code in TEMPORARY_STATUS:
                raise
            raise RefusedError(status_text(error)) from error
        with response:
            total = self._accept(response, url, start)
            self._receive(response, start if response.status == 206 else 0, total)
        self._finish(resumed=response.status == 206)

    def _accept(self, response: http.client.HTTPResponse, url: str, start: int) -> int | None:
        """Check the headers of a response and record its version; returns the size of the whole file, if known."""
        kind = response.headers.get_content_type() if response.headers.get("Content-Type") else ""
        if kind == "text/html" and not self.target.name.endswith((".html", ".htm")):
            raise RefusedError("the server answered with a web page instead of the file")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RefusedError(f"the server sent the file with the encoding {encoding!r}, expected none")
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        offset = 0
        if response.status == 206:
            offset, total = _range(response.headers.get("Content-Range", ""))
            if offset != start:
                self._forget()
                raise ConnectionError(f"the server continued at byte {offset}, expected {start}")
        if self.size is not None and total is not None and total != self.size:
            raise RefusedError(
                f"the server offers {total:,} bytes, expected {self.size:,}: the file on the server has changed"
            )
        free = free_space(self.target.parent)
        if total is not None and total - offset > free:
            raise DownloadError(
                f"{self.target.name} needs {megabytes(total - offset)}, but only {megabytes(int(free))} are free in "
                f"{self.target.parent}: free some space, or choose another --output"
            )
        if response.status != 206:
            validator = response.headers.get("ETag", "")
            if not validator or validator.startswith("W/"):  # If-Range takes no weak validators
                validator = response.headers.get("Last-Modified", "")
            self.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
        return total if total is not None else self.size

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Append what the server sends to the incomplete file."""
        received, marked = start, start
        with self.part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while block := response.read1(_BLOCK):
                file.write(block)
                if received == 0:
                    self.starts += 1
                received += len(block)
                if received - marked >= MIN_BYTES or received == total:
                    marked, self.last = received, time.monotonic()
                elif self.idle() > self.patience:
                    raise TimeoutError(f"fewer than {MIN_BYTES:,} bytes in {self.patience:.0f} seconds")
                if total is not None and received > total:
                    raise RefusedError(f"the server sent more than {total:,} bytes")
                if self.progress is not None:
                    self.progress(received, total)
        if total is not None and received < total:
            raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")

    def _finish(self, resumed: bool) -> None:
        """Check the complete file and give it its name."""
        if self.digest:
            found = file_digest(self.part, self.digest.partition(":")[0])
            if found != self.digest:
                self._forget()
                if resumed:  # its first part may be from another version of the file
                    raise ConnectionError("the file did not have the published hash after the download was resumed")
                raise RefusedError(
                    f"the file has the hash {found}, expected {self.digest}: it has changed or is damaged"
                )
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        if self.on_complete is not None:
            self.on_complete()
        os.replace(self.part, self.target)
        self.note.unlink(missing_ok=True)

    def _resumable(self, url: str) -> int:
        """The number of downloaded bytes that can be kept; 0 if the download must start again."""
        received = self.part.stat().st_size if self.part.is_file() else 0
        noted = self._noted()
        known = noted["url"] == url and noted["validator"] and (self.size is None or received <= self.size)
        return received if known else 0

    def _noted(self) -> dict[str, str]:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            return {name: str(noted[name]) for name in ("url", "validator")}
        except (OSError, ValueError, KeyError, TypeError):
            return {"url": "", "validator": ""}

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def downloaded_size(target: Path) -> int:
    """The bytes of a download to `target` that are on the disk, complete or not; 0 if there are none."""
    return next((path.stat().st_size for path in (target, _part_of(target)) if path.is_file()), 0)


def remove_download(target: Path) -> None:
    """Delete a file that `fetch` downloaded, and its NAME.part.json."""
    target.unlink()
    remove_note(target)


def remove_note(target: Path) -> None:
    """Delete the NAME.part.json of a complete download; it remains if the process was killed."""
    _note_of(target).unlink(missing_ok=True)


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file, e.g. "sha256:4f7e..."."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def megabytes(count: int) -> str:
    """`count` bytes as text: `815.6 MB`, `19.3 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def require_host(url: str, seconds: float) -> None:
    """Raise ConnectionError unless the name of the server is resolved in `seconds`, or a proxy is used.

    The system's resolver may block for minutes.
    """
    if _through(url):
        return
    host = urlsplit(url).hostname or ""
    answers: queue.Queue[OSError | None] = queue.Queue()

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, None)
            answers.put(None)
        except OSError as error:
            answers.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        error = answers.get(timeout=seconds)
    except queue.Empty:
        raise ConnectionError(f"the name {host} was not resolved in {seconds:.0f} seconds") from None
    if error is not None:
        raise UnknownHostError(f"the name {host} cannot be resolved ({error.strerror or error})")


def _through(url: str) -> str:
    """` through the proxy HOST`, if one is used for `url`; empty otherwise."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    host = urlsplit(proxy).hostname or proxy  # without the password that a URL may contain
    return f" through the proxy {host}" if proxy and not urllib.request.proxy_bypass(parts.hostname or "") else ""


def _range(header: str) -> tuple[int, int | None]:
    """The start and the size of the whole file in a Content-Range header, "bytes 100-299/300" or "bytes */300".

    The start is -1 if it is not given.
    """
    unit, _, rest = header.partition(" ")
    byte_range, _, whole = rest.partition("/")
    start = byte_range.partition("-")[0]
    found = int(start) if unit == "bytes" and start.isdecimal() else -1
    return found, int(whole) if whole.isdecimal() else None
