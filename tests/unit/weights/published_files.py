"""A published weight file on a local server, as an entry that the catalogue knows for the time of a test."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from typing_extensions import override

from rcnn.weights.catalogue import names
from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.systems.converted import Converted
from tests.parity.peer_tensorpack import SETTINGS, peer_shapes, write_peer_file

MODEL = "mask_rcnn_r101_fpn"  # torchvision has no file of it, so its name alone stands for the best file
NAME = f"{MODEL}@local"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and counts the requests."""

    requests: ClassVar[list[str]] = []

    @override
    def log_message(self, format: str, *args: object) -> None:
        self.requests.append(str(args[0]) if args else format)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of `folder`, and the list of its requests."""
    Handler.requests.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Handler.requests
    finally:
        server.shutdown()
        server.server_close()


def write_published(folder: Path) -> Path:
    """A small Mask R-CNN in tensorpack's format."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "COCO-MaskRCNN-Small.npz"
    write_peer_file(file, peer_shapes())
    return file


def publish(file: Path, address: str, monkeypatch: pytest.MonkeyPatch, **more: str | float) -> Entry:
    """Add an entry for `file`, at `address`, to the catalogue."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    facts = {"digest": f"sha256:{digest[:8]}", "settings": SETTINGS} | more
    entry = Entry(
        model=MODEL,
        tag="local",
        system="tensorpack",
        url=f"{address}/{file.name}",
        licence="none",
        seen="this test",
        box=50.0,  # the best
        **facts,  # type: ignore[arg-type]
    )
    known = names.entries() | {entry.name: entry}
    monkeypatch.setattr(names, "entries", lambda: known)
    monkeypatch.delenv("RCNN_OFFLINE", raising=False)
    return entry


def accept_any_model(converted: Converted, entry: Entry, file: Path) -> None:
    """In the place of `require_model`: the small network is not that of its name."""
