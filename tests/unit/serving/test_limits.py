"""Limits of time, clients that go away, web pages of other origins, the log, batches by shape, and stopping."""

from __future__ import annotations

import errno
import io
import json
import logging.config
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from torch import Tensor
from typing_extensions import override

from rcnn.predictor import Predictor
from rcnn.preprocess import Frame
from rcnn.results import ImageDetections
from tests.command import rcnn as command
from tests.unit.serving.hostile import encoded
from tests.unit.serving.running import ServiceOptions, request, running, tiny_predictor

PHOTO = encoded("PNG", size=(80, 60))
TALL = encoded("PNG", size=(60, 90))  # another padded shape
OPTIONS = ServiceOptions(seconds=20, log_requests=False)
PAGE = "https://example.org"  # a web page that may call the service


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return tiny_predictor()


class Gate:
    """The predictor's `detect`, which waits until the test opens it; keeps the number of images of each batch."""

    def __init__(self, detect: Callable[[list[Tensor], list[Frame], float], list[ImageDetections]]) -> None:
        self.detect, self.opened, self.batches = detect, threading.Event(), list[list[tuple[int, int]]]()

    def __call__(self, images: list[Tensor], frames: list[Frame], score: float) -> list[ImageDetections]:
        self.batches.append([frame.size for frame in frames])
        assert self.opened.wait(30)
        return self.detect(images, frames, score)


@contextmanager
def gated(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in front of the model, which is open at the end."""
    gate = Gate(predictor.detect)
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "detect", gate)
        try:
            yield gate
        finally:
            gate.opened.set()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait up to 20 seconds until `condition` is true."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def metric(url: str, line: str) -> float:
    """The value of a metric, 0 if it is not there yet."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", request(f"{url}/metrics")[1].decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def send_part(url: str, declared: int) -> socket.socket:
    """A connection that has sent the head of a request with a body of `declared` bytes, and 4 of these bytes."""
    address = urllib.parse.urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port or 0), timeout=30)
    connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {declared}\r\n\r\nabcd".encode())
    return connection


def test_a_slow_body_and_a_slow_answer_are_given_up(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServiceOptions(seconds=0.4, log_requests=False)
    with running(predictor, options) as url, gated(predictor, monkeypatch):
        with send_part(url, 1000) as connection:
            assert connection.recv(200).startswith(b"HTTP/1.1 408 ")
        started = time.monotonic()
        status, text = request(f"{url}/predict", PHOTO)
        assert (status, json.loads(text)) == (504, {"detail": "no answer within 0.4 seconds"})
        assert time.monotonic() - started < 10


def test_a_client_that_goes_away_is_no_failure_of_the_service(predictor: Predictor) -> None:
    with running(predictor, OPTIONS) as url:
        send_part(url, 1000).close()
        wait_for(lambda: metric(url, 'rcnn_requests_total{path="/predict",status="400"}') == 1)
        assert metric(url, 'rcnn_requests_total{path="/predict",status="500"}') == 0
        assert request(f"{url}/predict", PHOTO)[0] == 200


def test_images_of_one_shape_run_together(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first image is in the model, five more arrive: three of its shape, two of another."""
    options = ServiceOptions(seconds=20, max_batch=4, log_requests=False)
    with running(predictor, options) as url, ThreadPoolExecutor(6) as pool:
        with gated(predictor, monkeypatch) as gate:
            answers = [pool.submit(request, f"{url}/predict", PHOTO)]
            wait_for(lambda: len(gate.batches) == 1)
            answers += [pool.submit(request, f"{url}/predict", body) for body in (TALL, PHOTO, PHOTO, TALL, PHOTO)]
            wait_for(lambda: metric(url, "rcnn_waiting") == 5)
            gate.opened.set()
            assert [one.result()[0] for one in answers] == [200] * 6
        assert metric(url, "rcnn_images_total") == 6
    assert sorted(map(len, gate.batches)) == [1, 2, 3]
    assert all(len(set(sizes)) == 1 for sizes in gate.batches)
    shapes = [(one["height"], one["width"]) for one in (json.loads(answer.result()[1]) for answer in answers)]
    assert shapes == [(60, 80), (90, 60), (60, 80), (60, 80), (90, 60), (60, 80)]  # each client gets its own answer


def test_requests_in_progress_are_finished_when_the_service_stops(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gated(predictor, monkeypatch) as gate, ThreadPoolExecutor(3) as pool:
        gate.opened.set()  # for the warm-up
        with running(predictor, OPTIONS) as url:
            gate.opened.clear()
            gate.batches.clear()
            answers = [pool.submit(request, f"{url}/predict", body) for body in (PHOTO, PHOTO, TALL)]
            wait_for(lambda: bool(gate.batches) and metric(url, "rcnn_waiting") + len(gate.batches[0]) == 3)
            threading.Timer(0.3, gate.opened.set).start()
        # `running` has stopped the service, as SIGTERM does
    assert [one.result()[0] for one in answers] == [200] * 3
    with pytest.raises(urllib.error.URLError):
        request(f"{url}/health")


@pytest.mark.parametrize("origins", [(), (PAGE,)])
def test_web_pages_may_call_the_service_only_if_named(predictor: Predictor, origins: tuple[str, ...]) -> None:
    """A browser asks first (OPTIONS) before it sends a JPEG or a token, and reads the answer only with the header."""
    asked = {
        "Origin": PAGE, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }  # fmt: skip
    options = ServiceOptions(log_requests=False, token="secret", origins=origins)
    with running(predictor, options) as url:
        first = urllib.request.Request(f"{url}/predict", headers=asked, method="OPTIONS")
        if not origins:
            with pytest.raises(urllib.error.HTTPError, match="405"):
                urllib.request.urlopen(first, timeout=30)
        else:
            with urllib.request.urlopen(first, timeout=30) as answer:
                allowed = {name.lower(): value for name, value in answer.headers.items()}
            assert allowed["access-control-allow-origin"] == PAGE
            assert "POST" in allowed["access-control-allow-methods"]
            assert {"authorization", "content-type"} <= set(
                re.split(r",\s*", allowed["access-control-allow-headers"].lower())
            )
        for page in (PAGE, "https://other.example"):
            headers = {"Origin": page, "Authorization": "Bearer secret"}
            with urllib.request.urlopen(
                urllib.request.Request(f"{url}/predict", data=PHOTO, headers=headers), timeout=30
            ) as answer:
                assert answer.headers.get("access-control-allow-origin") == (page if page in origins else None)


@pytest.mark.parametrize(
    "origin",
    ["example.org", "https://example.org/", "https://example.org/page", "https://example.org:443", "http://a@b"],
)
def test_an_origin_that_no_page_has_is_refused(origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "no_such_model", "--allow-origin", origin) == 2
    assert capsys.readouterr().err == (
        f"rcnn: --allow-origin {origin}: expected scheme, host and port alone, e.g. https://example.org or "
        "http://localhost:3000 (without :80 and :443), or * for all pages\n"
    )


def test_a_log_that_cannot_be_written_does_not_replace_the_answer(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClosedPipe(io.StringIO):
        @override
        def write(self, text: str, /) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with running(predictor, ServiceOptions()) as url, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", ClosedPipe())
        assert request(f"{url}/health") == (200, b'{"status":"ok"}')
        assert 'rcnn_requests_total{path="/health",status="200"} 1.0' in request(f"{url}/metrics")[1].decode()


def test_each_request_is_one_line_of_json(predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    with running(predictor, ServiceOptions()) as url:
        assert request(f"{url}/predict", PHOTO)[0] == 200
        assert request(f"{url}/predict", b"no image")[0] == 400
        assert request(f"{url}/no\npage?token=1".replace("\n", "%0A"))[0] == 404
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [(one["method"], one["path"], one["status"]) for one in lines] == [
        ("POST", "/predict", 200), ("POST", "/predict", 400), ("GET", "other", 404)
    ]  # fmt: skip
    assert all(one["seconds"] >= 0 and abs(one["time"] - time.time()) < 60 for one in lines)


def test_warnings_of_uvicorn_are_json_lines_and_errors_text() -> None:
    from rcnn.serving.log import LOGGING

    settings = LOGGING["formatters"]["default"]
    formatter = logging.config.BaseConfigurator({}).resolve(settings["()"])(settings["fmt"], use_colors=False)

    def line(level: int) -> str:
        return formatter.format(logging.LogRecord("uvicorn.error", level, "", 0, "Invalid %s", ("request",), None))

    assert json.loads(line(logging.WARNING)) | {"time": 0} == {
        "time": 0,
        "level": "warning",
        "message": "Invalid request",
    }
    assert line(logging.ERROR) == "ERROR:    Invalid request"
