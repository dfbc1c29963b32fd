"""The service beside direct calls of the predictor, in one run: throughput, latency, overload and memory.

    python benchmarks/serve.py --requests 300

mask_rcnn_compact with random weights, images of 96 x 128 pixels, 8 clients at a time; then 80 at a time, 10 times what
the queue takes.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvicorn
from PIL import Image

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.serving.app import ServiceOptions, create_app


def picture() -> bytes:
    """A JPEG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def post(url: str, body: bytes) -> tuple[int, float]:
    """Status and seconds of one request."""
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
            answer.read()
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    return status, time.perf_counter() - started


def memory() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(url: str, body: bytes, requests: int, clients: int) -> tuple[list[int], list[float], float]:
    """Statuses and seconds of requests by `clients` at a time, and the seconds of all."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(post, [url] * requests, [body] * requests))
    return [status for status, _ in answers], [seconds for _, seconds in answers], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    count: int = parser.parse_args().requests
    predictor = Predictor(build_detector(override(model_config("mask_rcnn_compact"), ["input.min_size=96"])))
    body = picture()
    predictor.predict([body] * 4, batch_size=4)
    started = time.perf_counter()
    for result in predictor.predict([body] * count, batch_size=4):
        result.to_json()
    direct = count / (time.perf_counter() - started)
    app = create_app(predictor, ServiceOptions(capacity=8, max_batch=4, log_requests=False))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/predict"
    load(url, body, 16, 8)
    before = memory()
    statuses, seconds, total = load(url, body, count, 8)
    percentiles = [round(float(value) * 1000) for value in np.percentile(seconds, (50, 95, 99))]
    overloaded, times, _ = load(url, body, count, 80)
    refused = [value for value, status in zip(times, overloaded, strict=True) if status == 503]
    after = post(url, body)[0]
    figures = {
        "direct images/s": round(direct, 1), "service images/s": round(count / total, 1),
        "ratio": round(count / total / direct, 3), "p50, p95, p99 ms": percentiles,
        "failed": count - statuses.count(200),
        "overload: refused": len(refused), "median ms to refuse": round(1000 * float(np.median(refused or [0]))),
        "status after the overload": after, "memory MB before, after": [round(before), round(memory())],
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
