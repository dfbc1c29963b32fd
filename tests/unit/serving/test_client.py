"""`rcnn.Client` with servers that are not `rcnn serve`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe", b"\0" * 70_000])
def test_an_answer_of_another_program(answer: bytes) -> None:
    with answering(answer) as (url, _), pytest.raises(ValueError, match=f"{url} did not answer like `rcnn serve`"):
        rcnn.Client(url).models()
