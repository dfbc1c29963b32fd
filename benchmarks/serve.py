"""The service beside direct calls of the predictor, in one run: throughput, latency, overload and memory.

    python benchmarks/serve.py --requests 300 --soak 10000

mask_rcnn_compact with random weights, images of 96 x 128 pixels, 8 clients at a time in a process of their own. Then an
overload: the queue is kept full, and a client that sends a request every 50 ms measures how long a refusal takes; then
80 clients, 10 times what the queue takes. --soak sends that many requests more and prints the memory ten times.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvicorn
from PIL import Image

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.serving.app import ServiceOptions, create_app

CLIENT = Path(__file__).with_name("serve_client.py")
CAPACITY = 8


class Answers(NamedTuple):
    """What a client process measured."""

    statuses: list[int]
    milliseconds: list[float]
    seconds: float  # of all requests

    def of(self, status: int) -> list[float]:
        """The milliseconds of the answers with a status."""
        return [value for value, own in zip(self.milliseconds, self.statuses, strict=True) if own == status]


def picture() -> bytes:
    """A JPEG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def start_load(url: str, image: Path, requests: int, clients: int, pause: float = 0.0) -> subprocess.Popen[str]:
    """A process that sends requests."""
    words = [sys.executable, CLIENT, url, image, "--requests", requests, "--clients", clients, "--pause", pause]
    return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)


def answers_of(process: subprocess.Popen[str]) -> Answers:
    """What the process measured, once it has ended."""
    values = json.loads(process.communicate()[0])
    statuses, seconds = zip(*values["answers"], strict=True)
    return Answers(list(statuses), [1000 * value for value in seconds], values["seconds"])


def percentiles(values: list[float]) -> list[int]:
    """The 50th, 95th and 99th, rounded."""
    return [round(float(value)) for value in np.percentile(values or [0], (50, 95, 99))]


def resident() -> float:
    """Memory of this process now, MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def direct_rate(predictor: Predictor, body: bytes, count: int) -> float:
    """Images per second of direct calls in batches of 4."""
    predictor.predict([body] * 4, batch_size=4)
    started = time.perf_counter()
    for result in predictor.predict([body] * count, batch_size=4):
        result.to_json()
    return count / (time.perf_counter() - started)


def overload(url: str, image: Path, count: int) -> dict[str, object]:
    """How long refusals take while the queue is full, for a client that leaves the service its cores, and for many."""
    filling = start_load(url, image, 10 * count, CAPACITY)
    time.sleep(1)
    probe = answers_of(start_load(url, image, 60, 1, 0.05))
    filling.terminate()
    filling.wait()
    crowd = answers_of(start_load(url, image, count, 10 * CAPACITY))
    return {
        "overload, one probe: refused, of": [len(probe.of(503)), len(probe.statuses)],
        "overload, one probe: ms to refuse, p50, p95, p99": percentiles(probe.of(503)),
        "overload, 80 clients: refused, of": [len(crowd.of(503)), len(crowd.statuses)],
        "overload, 80 clients: ms to refuse, p50, p95, p99": percentiles(crowd.of(503)),
        "status after the overload": answers_of(start_load(url, image, 1, 1)).statuses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--soak", type=int, default=0, help="requests to send while memory is watched")
    arguments = parser.parse_args()
    count: int = arguments.requests
    predictor = Predictor(build_detector(override(model_config("mask_rcnn_compact"), ["input.min_size=96"])))
    body = picture()
    app = create_app(predictor, ServiceOptions(capacity=CAPACITY, max_batch=4, log_requests=False))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "photo.jpg"
        image.write_bytes(body)
        before = direct_rate(predictor, body, count)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        answers_of(start_load(url, image, 16, CAPACITY))
        served = answers_of(start_load(url, image, count, CAPACITY))
        direct = (before + direct_rate(predictor, body, count)) / 2  # before and after: the machine's speed changes
        rate = count / served.seconds
        figures = {
            "load average of the machine": os.getloadavg()[0], "direct images/s": round(direct, 1),
            "service images/s": round(rate, 1), "ratio": round(rate / direct, 3),
            "p50, p95, p99 ms": percentiles(served.milliseconds), "failed": count - len(served.of(200)),
            **overload(url, image, count),
        }  # fmt: skip
        print(json.dumps(figures, indent=2), flush=True)
        for part in range(10 if arguments.soak else 0):
            answers = answers_of(start_load(url, image, arguments.soak // 10, CAPACITY))
            done = (part + 1) * (arguments.soak // 10)
            print(f"{done} requests, {len(answers.of(200))} answered: {resident():.0f} MB", flush=True)
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
