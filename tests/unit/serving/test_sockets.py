"""Ports and addresses that cannot be used, by the command line: one line, before the model is loaded."""

from __future__ import annotations

import errno
import socket

import pytest

from rcnn.serving.sockets import bind, listen, url_of
from tests.command import rcnn as command

pytest.importorskip("fastapi", reason="needs pip install 'rcnn[web]'")


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert command("serve", "no_such_model", "--port", port) == 2
    assert capsys.readouterr().err == f"rcnn: port {port} is in use: choose another (--port)\n"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "--host 192.0.2.1 is not an address of this machine; expected e.g. 127.0.0.1"),
        ("no host", "--host no host is not known; expected an address of this machine"),
        ("a..b", "--host a..b is not known"),
    ],
)
def test_a_bad_host_is_one_line(host: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "no_such_model", "--host", host) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"rcnn: {message}")
    assert printed.count("\n") == 1


def test_an_infinite_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "no_such_model", "--seconds", "inf") == 2
    assert capsys.readouterr().err == "rcnn: inf seconds for a request (--seconds): expected a finite number, e.g. 30\n"


@pytest.mark.parametrize("port", [70000, 0, -1])
def test_a_port_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str], port: int) -> None:
    assert command("serve", "mask_rcnn_compact", f"--port={port}") == 2
    assert capsys.readouterr().err == f"rcnn: --port {port}: expected 1 to 65535\n"


def test_a_privileged_port_says_which_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ValueError, match=r"port 80 needs more permissions: choose one from 1024 to 65535 \(--port\)"):
        bind("127.0.0.1", 80)


def test_an_address_that_this_machine_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost, with ::1 in /etc/hosts, where IPv6 is off; the address here is for documentation."""
    lacking = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))
    found = [lacking, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    def resolve(*words: object, **options: object) -> list[object]:
        return [*found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    [bound] = bind("localhost", 0)
    with bound:
        assert bound.getsockname()[0] == "127.0.0.1"
    found.pop()
    with pytest.raises(ValueError, match=r"--host localhost is not an address of this machine|cannot be used"):
        bind("localhost", 0)


def test_two_processes_cannot_listen_on_one_port() -> None:
    first = bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = bind("127.0.0.1", port)
    try:
        listen(first, "127.0.0.1", port)
        with pytest.raises(ValueError, match=f"port {port} is in use"):
            listen(second, "127.0.0.1", port)
    finally:
        for one in (*first, *second):
            one.close()


def test_an_address_for_the_browser() -> None:
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 8000) == "http://[::1]:8000"
