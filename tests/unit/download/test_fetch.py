"""Downloads from a server that misbehaves: the right file, or one message in time; never a wrong or partial file."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from http.client import HTTPMessage
from pathlib import Path
from urllib.request import Request

import pytest
from typing_extensions import override

from rcnn.download import fetch as module
from rcnn.download import memory
from rcnn.download.fetch import DownloadError, fetch
from rcnn.download.http import Redirects, RefusedError
from tests.unit.download.server import CONTENT, full_disk, serving

DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PATIENCE = 1.5  # seconds


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def ranges(server: tuple[str, list[tuple[str, str]]]) -> list[tuple[str, str]]:
    server[1].clear()
    return server[1]


@pytest.mark.parametrize("kind", ["good", "chunked", "moved", "busy", "cut", "noranges", "mixed"])
def test_the_file_arrives(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path, kind: str
) -> None:
    seen: list[tuple[int, int | None]] = []
    target = fetch(
        f"{server[0]}/{kind}/a.bin",
        tmp_path / "a.bin",
        digest=DIGEST,
        size=len(CONTENT),
        progress=lambda done, total: seen.append((done, total)),
        patience=PATIENCE,
    )
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_cut_download_continues_where_it_stopped(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path
) -> None:
    fetch(f"{server[0]}/cut/b.bin", tmp_path / "b.bin", patience=PATIENCE)
    assert [asked for _, asked in ranges] == ["", f"bytes={len(CONTENT) // 2}-"]
    assert (tmp_path / "b.bin").read_bytes() == CONTENT


def test_a_second_process_continues(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path
) -> None:
    address = f"{server[0]}/good/c.bin"
    (tmp_path / "c.bin.part").write_bytes(CONTENT[:5000])
    (tmp_path / "c.bin.part.json").write_text(json.dumps({"url": address, "validator": '"v1"'}))
    fetch(address, tmp_path / "c.bin", digest=DIGEST, patience=PATIENCE)
    assert [asked for _, asked in ranges] == ["bytes=5000-"]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": "http://other/c.bin", "validator": "x"}'])
def test_a_part_of_unknown_origin_is_not_continued(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path, note: str
) -> None:
    (tmp_path / "d.bin.part").write_bytes(b"something else")
    (tmp_path / "d.bin.part.json").write_text(note)
    fetch(f"{server[0]}/good/d.bin", tmp_path / "d.bin", patience=PATIENCE)
    assert (tmp_path / "d.bin").read_bytes() == CONTENT
    assert [asked for _, asked in ranges] == [""]


def test_a_part_that_does_not_fit_is_forgotten(server: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    address = f"{server[0]}/beyond/e.bin"
    (tmp_path / "e.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "e.bin.part.json").write_text(json.dumps({"url": address, "validator": '"v1"'}))
    fetch(address, tmp_path / "e.bin", patience=PATIENCE)
    assert (tmp_path / "e.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [True, False])
def test_a_complete_part_is_not_downloaded_again(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path, stated: bool
) -> None:
    """As after a run that was stopped while it computed the hash."""
    address = f"{server[0]}/no-more/g.bin"
    (tmp_path / "g.bin.part").write_bytes(CONTENT)
    (tmp_path / "g.bin.part.json").write_text(json.dumps({"url": address, "validator": '"v1"'}))
    fetch(address, tmp_path / "g.bin", digest=DIGEST, size=len(CONTENT) if stated else None, patience=PATIENCE)
    assert [asked for _, asked in ranges] == ([] if stated else [f"bytes={len(CONTENT)}-"])
    assert (tmp_path / "g.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["g.bin"]
    (tmp_path / "g.bin.part").write_bytes(CONTENT[::-1])
    (tmp_path / "g.bin.part.json").write_text(json.dumps({"url": address, "validator": '"v1"'}))
    fetch(address, tmp_path / "g.bin", digest=DIGEST, size=len(CONTENT) if stated else None, patience=PATIENCE)
    assert (tmp_path / "g.bin").read_bytes() == CONTENT, "a complete part with another hash starts again"


def test_a_file_that_is_cut_short_on_the_server_is_refused(
    server: tuple[str, list[tuple[str, str]]], tmp_path: Path
) -> None:
    address = f"{server[0]}/no-more/i.bin"
    (tmp_path / "i.bin.part").write_bytes(CONTENT)
    (tmp_path / "i.bin.part.json").write_text(json.dumps({"url": address, "validator": '"v1"'}))
    with pytest.raises(DownloadError, match=f"offers {len(CONTENT):,} bytes, expected {len(CONTENT) + 9:,}"):
        fetch(address, tmp_path / "i.bin", size=len(CONTENT) + 9, patience=PATIENCE)
    assert not (tmp_path / "i.bin").exists()


def test_links_in_the_place_of_the_part_are_not_followed(
    server: tuple[str, list[tuple[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("h.bin.part", "h.bin.part.json"):
        (tmp_path / name).symlink_to(tmp_path / "mine.txt")
    fetch(f"{server[0]}/good/h.bin", tmp_path / "h.bin", patience=PATIENCE)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "h.bin").read_bytes() == CONTENT


def test_a_download_that_ends_when_the_wait_ends_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Future[bytes]):
        @override
        def result(self, timeout: float | None = None) -> bytes:
            if not self.done():
                self.set_result(b"content")  # between the end of the wait and the question whether it is done
                raise TimeoutError
            return super().result(timeout)

    def started(*arguments: object) -> Late:
        return Late()

    monkeypatch.setattr(memory, "in_background", started)
    assert memory.download("http://example.org/a.bin") == b"content"


def test_a_new_version_starts_again(server: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    fetch(f"{server[0]}/changed/f.bin", tmp_path / "f.bin", patience=PATIENCE)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"the server has no such file \(HTTP 404\).*Download it with a browser and save it as"),
        ("denied", r"the server or proxy denies access \(HTTP 403\)"),
        ("broken", r"the server answered HTTP 500"),
        ("html", "the server answered with a web page instead of the file"),
        ("gzip", "the server sent the file with the encoding 'gzip', expected none"),
        ("short", "the server offers 100 bytes, expected 307,200: the file on the server has changed"),
        ("long", "the server offers 614,400 bytes, expected 307,200"),
        ("endless", "the server sent more than 307,200 bytes"),
        ("to-file", r"file:///etc/hostname"),
        ("to-ftp", r"ftp://127\.0\.0\.1/a\.bin"),
        ("loop", "HTTP 302"),
        ("stall", "the server did not answer in time"),
        ("silent", "the server did not answer in time"),
        ("drip-headers", "the server did not answer in time"),
        ("drip", r"fewer than 16,384 bytes in 2 seconds"),
        ("always-cut", "the connection ended after 100 of 307,200 bytes"),
        ("garbage", "the response was truncated or damaged"),
    ],
)
def test_one_message_in_time_and_no_file(
    server: tuple[str, list[tuple[str, str]]], tmp_path: Path, kind: str, message: str
) -> None:
    start = time.monotonic()
    with pytest.raises(DownloadError, match=message) as error:
        fetch(f"{server[0]}/{kind}/a.bin", tmp_path / "a.bin", digest=DIGEST, size=len(CONTENT), patience=PATIENCE)
    assert time.monotonic() - start < 20  # a slow answer takes 60 seconds
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.bin").exists()


def test_silence_ends_with_the_patience(server: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    for patience in (0.5, 3.0):  # longer than one attempt
        start = time.monotonic()
        with pytest.raises(DownloadError, match="the server did not answer in time"):
            fetch(f"{server[0]}/silent/a.bin", tmp_path / "a.bin", patience=patience)
        assert time.monotonic() - start < 20  # a slow answer takes 60 seconds


def test_a_wrong_hash_is_no_file(server: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"has the hash md5:\w+, expected md5:0000: it has changed or is damaged"):
        fetch(f"{server[0]}/good/a.bin", tmp_path / "a.bin", digest="md5:0000", patience=PATIENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_takes_over(server: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    addresses = [f"{server[0]}/{kind}/a.bin" for kind in ("missing", "html", "good")]
    assert fetch(addresses, tmp_path / "a.bin", digest=DIGEST, patience=PATIENCE).read_bytes() == CONTENT


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*arguments: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(DownloadError, match=r"the name example\.org cannot be resolved.*Check the network"):
        fetch("https://example.org/a.bin", tmp_path / "a.bin", patience=PATIENCE)
    assert module.PATIENCE + 5 < 30
    monkeypatch.setattr(module, "NAME_PATIENCE", 0.1)
    start = time.monotonic()
    with pytest.raises(DownloadError):
        fetch("https://example.org/a.bin", tmp_path / "a.bin", patience=60)
    assert time.monotonic() - start < 10, "an unknown name is no slow server"


def test_a_name_that_is_never_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asleep(*arguments: object) -> None:
        time.sleep(60)

    monkeypatch.setattr(socket, "getaddrinfo", asleep)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"the name example\.org was not resolved in"):
        fetch("https://example.org/a.bin", tmp_path / "a.bin", patience=0.5)
    assert time.monotonic() - start < 20


def test_a_closed_port(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match="the connection was refused"):
        fetch(f"http://127.0.0.1:{port}/a.bin", tmp_path / "a.bin", patience=PATIENCE)


def test_a_proxy_is_used(
    server: tuple[str, list[tuple[str, str]]], ranges: list[tuple[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server[0])
    # the server is no proxy, but it is asked
    with pytest.raises(DownloadError, match=r"through the proxy 127\.0\.0\.1"):
        fetch("http://data.invalid/good/a.bin", tmp_path / "a.bin", patience=PATIENCE)
    assert ranges[0][0] == "http://data.invalid/good/a.bin"


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://example.org/a", "a.bin"])
def test_other_addresses_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(DownloadError, match="expected https: or http:"):
        fetch(address, tmp_path / "a.bin", patience=PATIENCE)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_requires_a_password_is_asked_once(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For https, the answer 407 comes as an error of the tunnel."""
    monkeypatch.delenv("no_proxy")
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            while True:
                connection, _ = proxy.accept()
                with connection:
                    asked.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"requires a user name and password \(HTTP 407\): set HTTPS_PROXY"):
            fetch(f"{scheme}://example.invalid/a.bin", tmp_path / "a.bin", patience=PATIENCE)
        assert len(asked) == 1


@pytest.mark.parametrize("kind", ["long", "always_half"])  # without ETag; with one, but Range is ignored
def test_a_server_that_always_ends_early_is_not_asked_for_ever(
    server: tuple[str, list[tuple[str, str]]],
    ranges: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Each attempt brings new bytes, but starts again."""
    waits = list[float]()
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(DownloadError, match=r"the server ended 5 downloads before the end, and cannot continue one"):
        fetch(f"{server[0]}/{kind}/a.bin", tmp_path / "a.bin")
    assert len(ranges) == 5


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part", "a.bin.part.json"])
def test_a_folder_in_the_place_of_the_file_is_refused_before_the_download(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"{name} is a folder; expected the downloaded file or nothing"):
        fetch("http://127.0.0.1:1/a.bin", tmp_path / "a.bin", patience=PATIENCE)


def test_a_full_disk_is_noticed_before(
    server: tuple[str, list[tuple[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full_disk)
    with pytest.raises(DownloadError, match=r"a\.bin needs 0\.3 MB, but only 0\.0 MB are free in"):
        fetch(f"{server[0]}/good/a.bin", tmp_path / "a.bin", patience=PATIENCE)


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [
        ("https://a.org/x", "https://b.org/x", True),
        ("http://a.org/x", "http://b.org/x", True),
        ("http://a.org/x", "https://a.org/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("http://a.org/x", "ftp://a.org/x", False),
        ("http://a.org/x", "file:///etc/passwd", False),
    ],
)
def test_which_redirects_are_followed(old: str, new: str, followed: bool) -> None:
    arguments = (Request(old), io.BytesIO(), 302, "Found", HTTPMessage(), new)
    if followed:
        request = Redirects().redirect_request(*arguments)
        assert request is not None
        assert request.full_url == new
        return
    with pytest.raises(RefusedError, match=f"the server redirects to {new}, which is not followed"):
        Redirects().redirect_request(*arguments)
