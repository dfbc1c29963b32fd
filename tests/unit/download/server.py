"""A local HTTP server that misbehaves on request: it stalls, drips, cuts, lies about lengths, redirects, fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
SECONDS = 60  # that a slow answer takes, in a thread that ends with the tests


class Behaviour(BaseHTTPRequestHandler):
    """The first part of a path says what happens: /cut/a.bin sends half of the file, then closes the connection."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str]]  # path and Range of each request
    port = 0

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        """Answer a request."""
        kind = self.path.split("/")[1]
        self.requests.append((self.path, self.headers.get("Range", "")))
        first = sum(path == self.path for path, _ in self.requests) == 1
        getattr(self, f"do_{kind.replace('-', '_')}")(first)

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self._head(status, **{"Content_Length": str(len(content)), **headers})
        self.wfile.write(content)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _close(self) -> None:
        self.close_connection = True

    def do_good(self, first: bool, content: bytes = CONTENT, tag: str = '"v1"') -> None:
        """The file, from the requested byte on if it is the same version."""
        asked, same = self.headers.get("Range", ""), self.headers.get("If-Range") == tag
        if asked and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(content[start:], 206, Content_Range=where, ETag=tag)
        else:
            self._send(content, ETag=tag)

    def do_cut(self, first: bool) -> None:
        """Half of the file, once; then the rest."""
        if not first:
            return self.do_good(first)
        self._head(200, Content_Length=str(len(CONTENT)), ETag='"v1"')
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        return self._close()

    def do_changed(self, first: bool) -> None:
        """Half of the file, once; then another version from its start."""
        if first:
            return self.do_cut(first)
        return self.do_good(first, CONTENT[::-1], '"v2"')

    def do_mixed(self, first: bool) -> None:
        """Half of the file, then the rest of another version under the same tag; then the right file."""
        if first:
            return self.do_cut(first)
        return self.do_good(first, CONTENT[::-1] if self.headers.get("Range") else CONTENT)

    def do_noranges(self, first: bool) -> None:
        """Half of the file, once; then the whole, whatever was asked for."""
        if first:
            return self.do_cut(first)
        return self._send(CONTENT, ETag='"v1"')

    def do_always_cut(self, first: bool) -> None:
        """Never more than a few bytes."""
        self._head(200, Content_Length=str(len(CONTENT)), ETag='"v1"')
        self.wfile.write(CONTENT[:100])
        self._close()

    def do_stall(self, first: bool) -> None:
        """Headers, and then nothing."""
        self._head(200, Content_Length=str(len(CONTENT)))
        time.sleep(SECONDS)
        self._close()

    def do_silent(self, first: bool) -> None:
        """Nothing at all."""
        time.sleep(SECONDS)
        self._close()

    def do_drip_headers(self, first: bool) -> None:
        """A byte of the headers at a time."""
        try:
            for letter in b"HTTP/1.0 200 OK\r\nX-Endless: " + int(10 * SECONDS) * b"x":
                self.wfile.write(bytes([letter]))
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass
        self._close()

    def do_drip(self, first: bool) -> None:
        """A byte at a time."""
        self._head(200, Content_Length=str(len(CONTENT)))
        try:
            for _ in range(int(10 * SECONDS)):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass
        self._close()

    def do_short(self, first: bool) -> None:
        """Says that it sends less than it does."""
        self._head(200, Content_Length="100")
        self.wfile.write(CONTENT)
        self._close()

    def do_long(self, first: bool) -> None:
        """Says that it sends more than it does."""
        self._head(200, Content_Length=str(2 * len(CONTENT)))
        self.wfile.write(CONTENT)
        self._close()

    def do_always_half(self, first: bool) -> None:
        """The first half with a tag, whatever was asked for."""
        self._head(200, Content_Length=str(len(CONTENT)), ETag='"v1"')
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        self._close()

    def do_endless(self, first: bool) -> None:
        """Chunks without end."""
        self._head(200, Transfer_Encoding="chunked")
        try:
            for _ in range(10_000):
                self.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        except OSError:
            pass
        self._close()

    def do_chunked(self, first: bool) -> None:
        """The file, without its length."""
        self._head(200, Transfer_Encoding="chunked")
        self.wfile.write(f"{len(CONTENT):x}\r\n".encode() + CONTENT + b"\r\n0\r\n\r\n")

    def do_html(self, first: bool) -> None:
        """A page."""
        self._send(b"<html>log in</html>", Content_Type="text/html; charset=utf-8")

    def do_gzip(self, first: bool) -> None:
        """An encoding that was not asked for."""
        self._send(CONTENT, Content_Encoding="gzip")

    def do_missing(self, first: bool) -> None:
        """404."""
        self._send(b"no", 404)

    def do_denied(self, first: bool) -> None:
        """403."""
        self._send(b"no", 403)

    def do_busy(self, first: bool) -> None:
        """503 once, then the file."""
        return self._send(b"later", 503) if first else self.do_good(first)

    def do_broken(self, first: bool) -> None:
        """500, always."""
        self._send(b"oops", 500)

    def do_beyond(self, first: bool) -> None:
        """416 to a range, else the file."""
        return self._send(b"", 416) if self.headers.get("Range") else self.do_good(first)

    def do_no_more(self, first: bool) -> None:
        """416 to a range, with the size of the file; else the file."""
        if self.headers.get("Range"):
            return self._send(b"", 416, Content_Range=f"bytes */{len(CONTENT)}")
        return self.do_good(first)

    def do_moved(self, first: bool) -> None:
        """To the file."""
        self._send(b"", 302, Location=f"http://127.0.0.1:{self.port}/good/a.bin")

    def do_to_file(self, first: bool) -> None:
        """To a file of this computer."""
        self._send(b"", 302, Location="file:///etc/hostname")

    def do_to_ftp(self, first: bool) -> None:
        """To another protocol."""
        self._send(b"", 302, Location="ftp://127.0.0.1/a.bin")

    def do_loop(self, first: bool) -> None:
        """To itself."""
        self._send(b"", 302, Location=self.path)

    def do_garbage(self, first: bool) -> None:
        """Not HTTP."""
        self.wfile.write(b"\x00\x01\x02\r\n\r\n")
        self._close()


class _Usage(NamedTuple):
    total: int
    free: int


def full_disk(path: Path) -> _Usage:
    """In place of shutil.disk_usage: 1000 bytes are left."""
    return _Usage(total=1000, free=1000)


@contextmanager
def serving() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of the server, and the requests that it got: path and Range."""
    requests: list[tuple[str, str]] = []

    class Handler(Behaviour):
        pass

    Handler.requests = requests
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
