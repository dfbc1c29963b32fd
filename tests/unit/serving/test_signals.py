"""`rcnn serve` in a process of its own: signals stop it once the requests in progress are answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import save_checkpoint
from tests.tiny_data import TINY_MODEL
from tests.unit.serving.hostile import encoded

pytest.importorskip("fastapi", reason="needs pip install 'rcnn[web]'")
PHOTO = encoded("PNG", size=(48, 48))
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes at once")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_the_service_after_the_request_in_progress(tmp_path: Path, number: signal.Signals) -> None:
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "input.min_size=64", "input.max_size=96"])
    save_checkpoint(tmp_path / "model", build_detector(config))
    port = free_port()
    words = [sys.executable, "-m", "rcnn", "serve", tmp_path / "model", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PHOTO)}\r\nConnection: close\r\n\r\n"
        with connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b" 200 OK" in connection.makefile("rb").read()  # to its end: the model is warm
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(head.encode() + PHOTO[:20])
            time.sleep(0.5)  # the request is in progress
            process.send_signal(number)
            time.sleep(0.5)
            connection.sendall(PHOTO[20:])
            answer = connection.makefile("rb").read()
        _, error = process.communicate(timeout=60)
    assert answer.startswith(b"HTTP/1.1 200 OK"), (answer, error)
    assert process.returncode == 128 + number
    assert "Traceback" not in error
    assert f"rcnn: stopped by {number.name}" in error
