"""Sends one image many times to a service and prints statuses and times as JSON; serve.py runs it as a process.

    python benchmarks/serve_client.py http://127.0.0.1:8000 photo.jpg --requests 300 --clients 8 --pause 0

Only the standard library, and one connection per client, so that it takes little of the service's CPU time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
import urllib.parse
from pathlib import Path


class Load:
    """Requests by several clients at a time."""

    def __init__(self, url: str, body: bytes, requests: int, pause: float) -> None:
        self.host, self.body, self.left, self.pause = urllib.parse.urlsplit(url).netloc, body, requests, pause
        self.answers: list[tuple[int, float]] = []  # status, seconds
        self.lock = threading.Lock()

    def client(self) -> None:
        """Send requests one after the other until none is left."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        while self.take():
            started = time.perf_counter()
            try:
                connection.request("POST", "/predict", self.body, {"Content-Type": "application/octet-stream"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            with self.lock:
                self.answers.append((status, time.perf_counter() - started))
            time.sleep(self.pause)

    def take(self) -> bool:
        """Whether there is another request to send."""
        with self.lock:
            self.left -= 1
            return self.left >= 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between the requests of a client")
    arguments = parser.parse_args()
    load = Load(arguments.url, arguments.image.read_bytes(), arguments.requests, arguments.pause)
    threads = [threading.Thread(target=load.client) for _ in range(arguments.clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - started, "answers": load.answers}))


if __name__ == "__main__":
    main()
