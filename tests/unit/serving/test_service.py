"""The service over HTTP: answers, limits, overload, stopping; and the client."""

from __future__ import annotations

import io
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import override

import rcnn
from rcnn.models import build_detector, model_config, overrides
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from tests.unit.serving.running import ServiceOptions, request, running

OPTIONS = ServiceOptions(max_bytes=200_000, max_pixels=250_000, seconds=20, capacity=8, log_requests=False)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    config = overrides.override(
        model_config("mask_rcnn_compact"), ["input.min_size=96", "box.selection.max_detections=5"]
    )
    return Predictor(build_detector(config), classes=["cat", "dog", "cow", "pig", "hen", "fox"])


@pytest.fixture(scope="module")
def url(predictor: Predictor) -> Iterator[str]:
    with running(predictor, OPTIONS) as address:
        yield address


def picture(height: int = 96, width: int = 128) -> bytes:
    """A PNG of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_client_gets_what_the_predictor_returns(predictor: Predictor, url: str) -> None:
    expected, found = predictor.predict(picture(), score=0.1), rcnn.Client(url).predict(picture(), score=0.1)
    assert len(found) == len(expected) > 0
    assert found.names == expected.names
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert rcnn.Client(url).models()[0]["classes"] == ["cat", "dog", "cow", "pig", "hen", "fox"]
    assert found.draw().size == (128, 96)


def test_the_answer_is_that_of_predictions_json(predictor: Predictor, url: str) -> None:
    status, text = request(f"{url}/predict", picture())
    assert status == 200
    answer = json.loads(text)
    assert (answer["width"], answer["height"]) == (128, 96)
    assert answer["detections"] == predictor.predict(picture()).to_json()
    status, jpeg = request(f"{url}/predict?format=picture", picture())
    assert status == 200
    assert Image.open(io.BytesIO(jpeg)).size == (128, 96)


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400),
        (b"not an image", "", 400),
        (picture()[:2000], "", 400),  # truncated
        (picture(1, 1), "?score=2", 422),
        (picture(1, 1), "?format=xml", 422),
        (b"x" * 200_001, "", 413),
    ],
)
def test_bad_requests_are_refused(url: str, body: bytes, query: str, status: int) -> None:
    assert request(f"{url}/predict{query}", body)[0] == status


@pytest.mark.parametrize(
    ("body", "query", "content_type", "status", "detail"),
    [
        (b"x", "?threshold=0.5&scores=1", "", 422, "unknown parameters threshold, scores; expected score or format"),
        (b"x", "?score=.5&score=.6", "", 422, "score is given 2 times; expected once"),
        (b"x", "?score=2", "", 422, "score=2: expected a number from 0 to 1"),
        (b"x", "?format=xml", "", 422, "format=xml: expected json, arrays or picture"),
        (
            b"x",
            "",
            "multipart/form-data; boundary=-",
            415,
            "the body is a form; expected the bytes of the image file, e.g. curl",
        ),
        (b"file=photo.jpg", "", "application/x-www-form-urlencoded", 415, "the body is a form; expected the bytes"),
        (b"A=1\nB=2\n", "", "application/x-www-form-urlencoded", 400, "the image given as 8 bytes is not an image"),
        (b"iVBORw0KGgo=", "", "application/x-www-form-urlencoded", 400, "the image given as 12 bytes is not an image"),
        (b"not an image", "", "", 400, "the image given as 12 bytes is not an image that can be read"),
    ],
)
def test_an_error_is_one_text(url: str, body: bytes, query: str, content_type: str, status: int, detail: str) -> None:
    found, text = request(f"{url}/predict{query}", body, **{"Content-Type": content_type})
    assert found == status
    assert json.loads(text)["detail"].startswith(detail)
    assert not re.search("--max-pixels|rcnn doctor|pip install", text.decode())


def test_a_picture_larger_than_a_jpeg_is_refused_before_the_model_runs(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rcnn.serving.app.LARGEST_JPEG", 50)
    status, text = request(f"{url}/predict?format=picture", picture(60, 20))
    assert status == 400
    assert "format=picture is a JPEG of up to 50 per side: ask for format=json" in json.loads(text)["detail"]
    assert request(f"{url}/predict", picture(60, 20))[0] == 200


def test_limits_below_one_are_refused() -> None:
    for name in ("max_bytes", "max_pixels", "max_batch", "capacity"):
        with pytest.raises(ValueError, match=f"{name}=0; expected a whole number from 1"):
            ServiceOptions(**{name: 0})  # type: ignore[arg-type]


def test_an_image_is_accepted_as_curl_sends_it(url: str) -> None:
    assert request(f"{url}/predict", picture(), **{"Content-Type": "application/x-www-form-urlencoded"})[0] == 200


def test_there_is_one_page_of_documentation(url: str) -> None:
    assert [request(f"{url}/{path}")[0] for path in ("docs", "redoc")] == [200, 404]


def test_the_root_is_the_description(url: str) -> None:
    status, page = request(url)
    assert status == 200
    assert b"openapi.json" in page


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(url: str) -> None:
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "PNG")  # 16 million pixels in 16 kB
    assert len(file.getvalue()) < OPTIONS.max_bytes
    started = time.monotonic()
    status, text = request(f"{url}/predict", file.getvalue())
    assert status == 400
    assert "has 16,000,000 pixels (4000 x 4000); the limit is 250,000" in json.loads(text)["detail"]
    assert b"--max-pixels" not in text
    assert time.monotonic() - started < 2


def test_health_metrics_and_description(url: str) -> None:
    assert request(f"{url}/health")[0] == 200
    assert request(f"{url}/ready")[0] == 200
    for path in ("health", "ready"):
        with urllib.request.urlopen(urllib.request.Request(f"{url}/{path}", method="HEAD")) as answer:
            assert answer.status == 200
    text = request(f"{url}/metrics")[1].decode()
    assert 'rcnn_requests_total{path="/predict",status="200"}' in text
    described = json.loads(request(f"{url}/openapi.json")[1])
    assert {"/predict", "/models", "/health", "/ready", "/metrics"} <= described["paths"].keys()


def test_overload_is_refused_at_once_and_the_service_recovers(predictor: Predictor) -> None:
    with running(predictor, replace(OPTIONS, capacity=2, max_batch=2)) as url:
        answers: list[tuple[int, float]] = []

        def one() -> None:
            started = time.monotonic()
            status = request(f"{url}/predict", picture())[0]
            answers.append((status, time.monotonic() - started))

        threads = [threading.Thread(target=one) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503}
        assert request(f"{url}/predict", picture())[0] == 200


def test_a_refusal_takes_less_than_100_ms_while_the_model_is_busy(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fastest of 20 refusals, because other programs may use the cores."""
    detect, go_on = predictor.detect, threading.Event()

    def busy(*given: Any) -> list[ImageDetections]:
        assert go_on.wait(30)
        return detect(*given)

    def admitted(address: str) -> int:
        while (status := request(address, picture())[0]) == 503:  # one of the refused requests came first
            time.sleep(0.01)
        return status

    with running(predictor, replace(OPTIONS, capacity=2)) as url, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(predictor, "detect", busy)
        waiting = [pool.submit(admitted, f"{url}/predict") for _ in range(2)]
        refusals: list[float] = []
        give_up = time.monotonic() + 20
        while len(refusals) < 20 and time.monotonic() < give_up:
            started = time.monotonic()
            if request(f"{url}/predict", b"no image")[0] == 503:  # 400 until both requests are admitted
                refusals.append(time.monotonic() - started)
        go_on.set()
        assert [one.result() for one in waiting] == [200, 200]
    assert len(refusals) == 20
    assert min(refusals) < 0.1


def test_a_failure_of_the_model_is_counted_and_the_service_goes_on(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(images: object, frames: object) -> None:
        raise RuntimeError("out of memory")

    with running(predictor, OPTIONS) as url:
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "detect", fail)
            status, text = request(f"{url}/predict", picture())
            assert status == 500
            assert json.loads(text) == {"detail": "the service failed on this request; its log says why"}
        assert request(f"{url}/predict", picture())[0] == 200
        assert 'rcnn_requests_total{path="/predict",status="500"} 1.0' in request(f"{url}/metrics")[1].decode()


def test_the_client_says_what_it_takes(url: str) -> None:
    with pytest.raises(ValueError, match=r"one image, got several; call it for each image"):
        rcnn.Client(url).predict([picture(), picture()])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(404\).*expected the URL that `rcnn serve` printed, without a path"):
        rcnn.Client(f"{url}/predict").predict(picture())


def test_a_token_is_required(predictor: Predictor) -> None:
    with running(predictor, replace(OPTIONS, token="secret")) as url:
        assert request(f"{url}/predict", picture())[0] == 401
        assert request(f"{url}/health")[0] == 200
        assert len(rcnn.Client(url, token="secret").predict(picture())) == 5
        lower = urllib.request.Request(f"{url}/models", headers={"Authorization": "bearer secret"})
        with urllib.request.urlopen(lower) as answer:  # the scheme may be written in any case (RFC 9110)
            assert answer.status == 200
        with pytest.raises(ValueError, match=r"refused the request \(401\): the token is missing or wrong"):
            rcnn.Client(url, token="other").predict(picture())


@pytest.mark.parametrize(
    ("token", "said"),
    [("secret\n", "a line end at position 7"), ("se cret", "a space"), ("clé", "not printable ASCII")],
)
def test_a_token_that_http_changes_is_refused_and_not_shown(token: str, said: str) -> None:
    for use in (partial(rcnn.Client, "http://127.0.0.1:9"), ServiceOptions):
        with pytest.raises(ValueError, match=said) as refused:
            use(token=token)
        assert token.strip() not in str(refused.value)


def test_an_open_file_can_be_drawn_after_the_request(url: str) -> None:
    found = rcnn.Client(url).predict(io.BytesIO(picture()))
    np.testing.assert_array_equal(found.draw(), rcnn.Client(url).predict(picture()).draw())


def test_another_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client, answers = rcnn.Client("http://host:80"), list[bytes]()

    def answer(path: str, body: bytes | None = None) -> bytes:
        return answers.pop()

    monkeypatch.setattr(client, "_request", answer)
    for text in (b"<html>", b"[1]", b'{"models": 1}', b"\xff"):
        answers.append(text)
        with pytest.raises(ValueError, match="http://host:80 did not answer like `rcnn serve`"):
            client.models()
    for text in (b"[]", b'{"boxes": {"dtype": "float32", "shape": [2], "data": "!"}}'):
        answers.append(text)
        with pytest.raises(ValueError, match="http://host:80: the answer is not from an rcnn service of this version"):
            client.predict(picture())


def test_an_answer_that_breaks_off_is_named_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reset(io.BytesIO):
        @override
        def read1(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError("reset by peer")

    def fail(*words: object, **options: object) -> None:
        raise urllib.error.HTTPError("http://host:80/models", 500, "Internal Server Error", Message(), Reset())

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", fail)
    with pytest.raises(ConnectionError, match=r"http://host:80 failed on this request \(500\): Internal Server Error"):
        rcnn.Client("http://host:80").models()


def test_the_client_says_what_a_closed_connection_means(url: str) -> None:
    """A body that the service refuses before it has read it."""
    with pytest.raises(
        (ConnectionError, ValueError), match=r"closed the connection while 30000000 bytes were sent|413"
    ):
        rcnn.Client(url).predict(bytes(30_000_000))


def test_the_client_names_paths_that_are_no_images(tmp_path: Path) -> None:
    client = rcnn.Client("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="is a URL; expected a file"):
        client.predict("http://x/y.jpg")
    with pytest.raises(ValueError, match="is a folder; expected an image file"):
        client.predict(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg does not exist"):
        client.predict("nothing.jpg")
    with pytest.raises(ValueError, match="channels='gbr' is not known"):
        client.predict(picture(), channels=cast("Any", "gbr"))


def test_no_service_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="cannot be reached"):
        rcnn.Client("http://127.0.0.1:9").predict(picture())
    for url, reason in (
        ("localhost:8000", "it does not begin with http:// or https://; expected e.g. http://localhost:8000"),
        ("http://a\0b:80", "it contains a space or a control character"),
        (f"http://{'a' * 300}:80", "no host is called a+…: names have up to 253 characters, 1 to 63 between dots"),
        (f"http://{'.'.join(['a' * 60] * 5)}", "no host is called"),
        ("http://a..b", r"no host is called a\.\.b"),
        ("http://:80", "it has no host"),
        ("http://a:99999", "Port out of range"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://user:word@my_host/", "it has a user name"),
        ("http://a:80#b", "it has a query or a fragment"),
        ("http://a:80/?b", "it has a query or a fragment"),
    ):
        with pytest.raises(ValueError, match=f"is not the URL of a service: {reason}"):
            rcnn.Client(url)
    for url in ("https://bücher.example.", "http://[::1]:80", "http://my_host/"):
        assert rcnn.Client(url).url == url.rstrip("/")
    for timeout in (-1, "60", float("nan"), 1e10, float("inf")):
        with pytest.raises(ValueError, match=re.escape(f"timeout={timeout!r}; expected a number of seconds above 0")):
            rcnn.Client("http://127.0.0.1:9", timeout=cast("Any", timeout))
    for timeout in (None, Fraction(5)):
        with pytest.raises(ConnectionError, match="cannot be reached"):
            rcnn.Client("http://127.0.0.1:9", timeout=cast("Any", timeout)).predict(picture())
