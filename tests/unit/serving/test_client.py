"""`rcnn.Client` with servers that are not `rcnn serve`."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typing_extensions import override

import rcnn
from rcnn.serving import client as client_module
from tests.unit.serving.hostile import encoded

PHOTO = encoded("PNG", size=(8, 8))


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that sends `answer` to every request, and the tokens that it received."""
    tokens = list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)

        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            self.wfile.write(answer)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", tokens
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code: int) -> None:
    """The other host would receive the token."""
    with answering(b"HTTP/1.0 200 OK\r\n\r\n{}") as (other, received):
        moved = f"HTTP/1.0 {code} Moved\r\nLocation: {other}/predict?score=0.0\r\n\r\n".encode()
        with answering(moved) as (url, tokens):
            client = rcnn.Client(url, token="secret")
            expected = f"{url} redirects to '{other}' ({code}). rcnn.Client does not follow redirects"
            with pytest.raises(ValueError, match=re.escape(expected)):
                client.predict(PHOTO)
            with pytest.raises(ValueError, match="does not follow redirects"):
                client.models()
    assert (received, tokens) == ([], ["Bearer secret"] * 2)


def test_a_proxy_of_another_kind_receives_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib knows no SOCKS; it must not speak HTTP to such a proxy."""
    with answering(b"HTTP/1.0 200 OK\r\n\r\n{}") as (url, received):
        monkeypatch.setenv("http_proxy", url.replace("http:", "socks5:"))
        client_module._opener.cache_clear()
        try:
            with pytest.raises(ConnectionError, match="unknown url type: socks5"):
                rcnn.Client("http://example.invalid:8000", token="secret").models()
        finally:
            client_module._opener.cache_clear()
    assert received == []


def test_an_answer_that_ends_early() -> None:
    with (
        answering(b'HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{"models"') as (url, _),
        pytest.raises(ConnectionError, match=r" closed the connection after 9 of 100 bytes of its answer; try again"),
    ):
        rcnn.Client(url).models()


def test_an_answer_that_says_more_bytes_than_fit_into_memory() -> None:
    with (
        answering(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}") as (url, _),
        pytest.raises(ConnectionError, match=" closed the connection after 2 of 99999999999 bytes of its answer"),
    ):
        rcnn.Client(url).models()


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 1000)
    with (
        answering(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 100_000) as (url, _),
        pytest.raises(ValueError, match="did not answer like `rcnn serve`"),
    ):
        rcnn.Client(url).models()


@pytest.mark.parametrize("start", [b"HTTP/1.0 200 OK\r\nX: ", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 503 Busy\r\n\r\n"])
def test_an_answer_that_comes_byte_by_byte_ends_with_the_timeout(start: bytes) -> None:
    """In its headers, in its body, and in the body of an error."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(start)
                for _ in range(600):
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=r"has not answered completely within 0\.3 seconds|at the moment"):
            rcnn.Client(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.3).models()
        assert time.monotonic() - started < 15  # the server sends for 30 seconds


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe", b"\0" * 70_000,
        b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200_000,
    ],
)  # fmt: skip
def test_an_answer_of_another_program(answer: bytes) -> None:
    with answering(answer) as (url, _), pytest.raises(ValueError, match=f"{url} did not answer like `rcnn serve`"):
        rcnn.Client(url).models()
