"""Hostile requests among ordinary ones: bodies that are no good images, misuse, and requests from the description."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import pytest

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from tests.unit.serving.hostile import corpus, encoded
from tests.unit.serving.running import ServiceOptions, request, running, tiny_predictor

OPTIONS = ServiceOptions(max_pixels=250_000, seconds=20, capacity=8, log_requests=False)
STATM = Path("/proc/self/statm")
GROWTH = 60  # MB that the last seven tenths of the requests may add
ORDINARY = ("/predict", "/predict?score=0.2&format=picture", "/predict?format=arrays")
MISUSED = {"/predict?score=2": 422, "/predict?format=exe": 422, "/predict?size=9": 422, "/health": 405, "/nothing": 404}


def resident() -> float:
    """Memory of this process, MB."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def compact_predictor() -> Predictor:
    """mask_rcnn_compact with random weights, for images of 96 px."""
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), ["input.min_size=96"])))


def mixed(count: int) -> Iterator[tuple[str, bytes, str, set[int]]]:
    """`count` requests: name, body, path, and expected statuses. A quarter are ordinary, one in 16 is misused."""
    bodies, photos = cycle(corpus()), cycle([encoded("PNG"), encoded("JPEG", size=(96, 64)), encoded("WEBP")])
    paths, misused = cycle(ORDINARY), cycle(MISUSED.items())
    for number in range(count):
        if number % 4 == 3:
            yield "an image", next(photos), next(paths), {200}
        elif number % 16 == 1:
            path, status = next(misused)
            yield path, next(photos), path, {status}
        else:
            yield *next(bodies), "/predict", {200, 400}  # a mutant may still be an image


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize(
    ("model", "requests", "clients"),
    [(tiny_predictor, 320, 1), pytest.param(compact_predictor, 10_000, 12, marks=pytest.mark.exhaustive)],
)
def test_hostile_requests_are_refused_and_memory_stays_flat(
    model: Callable[[], Predictor], requests: int, clients: int
) -> None:
    """The service answers each of them, and goes on. With more `clients` at once than it admits, some must wait (503).

    With -s, it prints the memory.
    """
    assert len(list(corpus())) > 200
    memory, wrong = list[float](), list[str]()
    answers, ordinary, waited = Counter[int](), Counter[int](), list[str]()

    def send(one: tuple[str, bytes, str, set[int]]) -> tuple[str, set[int], int]:
        name, body, path, expected = one
        for _ in range(1000):
            status = request(f"{url}{path}", body, **{"Content-Type": "image/png"})[0]
            if status != 503:
                return name, expected, status
            waited.append(name)
            time.sleep(0.05)
        return name, expected, 503

    waiting = mixed(requests)
    with running(model(), OPTIONS) as url, ThreadPoolExecutor(clients) as pool:
        for _ in range(10):
            for name, expected, status in pool.map(send, islice(waiting, requests // 10)):
                (ordinary if expected == {200} else answers)[status] += 1
                if status not in expected:
                    wrong.append(f"{name}: {status}, expected {sorted(expected)}")
            memory.append(resident() if STATM.exists() else 0.0)
            print(f"{answers}, ordinary {ordinary}, {len(waited)} times 503: {memory[-1]:.0f} MB")
        assert request(f"{url}/health")[0] == 200
    assert not wrong
    assert answers.total() + ordinary.total() == requests
    assert ordinary.total() == requests // 4
    assert answers[400] > answers[200]
    assert answers[422] > 0
    assert bool(waited) == (clients > OPTIONS.capacity)
    assert memory[-1] - memory[2] < GROWTH


@pytest.mark.heavy
def test_requests_generated_from_the_description(tmp_path: Path) -> None:
    """schemathesis sends each operation valid and invalid requests, and checks the answers against the description."""
    pytest.importorskip("schemathesis", reason="needs pip install schemathesis")
    with running(tiny_predictor(), OPTIONS) as url:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--max-examples=20",
                "--seed=1",
                "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--suppress-health-check=all", "--no-color",
            ],
            capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
