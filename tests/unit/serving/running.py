"""A service that runs in a thread of the tests, and requests to it."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from tests.tiny_data import TINY_MODEL

pytest.importorskip("fastapi", reason="needs pip install 'rcnn[web]'")
uvicorn = pytest.importorskip("uvicorn", reason="needs pip install 'rcnn[web]'")

from rcnn.serving.app import ServiceOptions, create_app  # noqa: E402


def tiny_predictor() -> Predictor:
    """A narrow model with random weights."""
    settings = [*TINY_MODEL, "input.min_size=64", "input.max_size=96", "box.selection.max_detections=3"]
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), settings)))


@contextmanager
def running(predictor: Predictor, options: ServiceOptions) -> Iterator[str]:
    """The address of a service that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(create_app(predictor, options), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service has not started"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def request(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
