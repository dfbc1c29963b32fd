"""Prometheus metrics of the service, and one JSON line per request on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Metrics:
    """The metrics of one service."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """`waiting` returns the number of images that wait for the model."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rcnn_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram("rcnn_request_seconds", "Seconds per request.", ["path"], registry=self.registry)
        self.images = Counter("rcnn_images", "Images that the model has processed.", registry=self.registry)
        self.batch_size = Histogram(
            "rcnn_batch_size", "Images per forward pass.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram("rcnn_batch_seconds", "Seconds per forward pass.", registry=self.registry)
        Gauge("rcnn_waiting", "Images that wait for the model.", registry=self.registry).set_function(waiting)

    def count_batch(self, images: int, seconds: float) -> None:
        """Count one forward pass."""
        self.images.inc(images)
        self.batch_size.observe(images)
        self.batch_seconds.observe(seconds)

    def count_request(self, method: str, path: str, status: int, seconds: float, log: bool) -> None:
        """Count one request, and log it. A log that cannot be written (full disk, closed pipe) is no error."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        if log:
            line = {"time": time.time(), "method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
            with suppress(OSError, ValueError):  # raised here, it would replace the answer
                print(json.dumps(line), file=sys.stderr, flush=True)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class CountRequests:
    """ASGI middleware: counts each request with its status and seconds for /metrics, and logs it.

    FastAPI's own kind of middleware passes bodies and answers through queues: a third of the time of a refused request.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: bool) -> None:
        self.app, self.metrics, self.log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; it is counted just before its answer is sent, or when the handler raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, is_counted = time.monotonic(), False

        def count(status: int) -> None:
            nonlocal is_counted
            is_counted = True
            path = str(getattr(scope.get("route"), "path", "other"))
            self.metrics.count_request(scope["method"], path, status, time.monotonic() - started, self.log)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            if not is_counted:
                count(500)
