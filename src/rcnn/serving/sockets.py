"""The sockets of the service: bound before the model is loaded, so that a port in use is reported at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]  # as `getaddrinfo` returns it

WAITING_CONNECTIONS = 2048  # connections that the system queues until the service accepts them; uvicorn's default


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of `host`, which do not accept connections yet.

    Addresses that this machine does not have are skipped if another one is left: /etc/hosts often has ::1 for
    localhost where IPv6 is off. Raises ValueError, with the option in its message, if `--host` or `--port` cannot be
    used.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        with _naming_options(host, port):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                try:
                    sockets.append(_bound(family, kind, protocol, address))
                except OSError as error:
                    if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                        raise
                    missing = error
            if missing is not None and not sockets:
                raise missing
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bound(family: int, kind: int, protocol: int, address: Address) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def listen(sockets: Sequence[socket.socket], host: str, port: int) -> None:
    """Accept connections. ValueError as for `bind`: two processes can bind to a port, but only one can listen."""
    with _naming_options(host, port):
        for one in sockets:
            one.listen(WAITING_CONNECTIONS)


def url_of(host: str, port: int) -> str:
    """The URL for a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _naming_options(host: str, port: int) -> Iterator[None]:
    """Raise errors of the system as ValueError with the option in the message."""
    try:
        yield
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(
            f"--host {host} is not known; expected an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use: choose another (--port)") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ValueError(f"port {port} needs more permissions: choose one from 1024 to 65535 (--port)") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"--host {host} is not an address of this machine; expected e.g. 127.0.0.1, or 0.0.0.0 for all"
            ) from error
        raise ValueError(
            f"{url_of(host, port)} cannot be used: {error.strerror}. Choose another address (--host) or port (--port)"
        ) from error
