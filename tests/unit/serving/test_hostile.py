"""Hostile requests: bodies that are no good images, and requests generated from the service's description."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from tests.unit.serving.hostile import corpus
from tests.unit.serving.running import ServiceOptions, request, running, tiny_predictor

OPTIONS = ServiceOptions(max_pixels=250_000, seconds=20, capacity=8, log_requests=False)
STATM = Path("/proc/self/statm")
GROWTH = 60  # MB that the last two thirds of the requests may add


def resident() -> float:
    """Memory of this process, MB."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def compact_predictor() -> Predictor:
    """mask_rcnn_compact with random weights, for images of 96 px."""
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), ["input.min_size=96"])))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize(
    ("model", "requests"),
    [(tiny_predictor, 300), pytest.param(compact_predictor, 10_000, marks=pytest.mark.exhaustive)],
)
def test_hostile_bodies_are_refused_and_memory_stays_flat(model: Callable[[], Predictor], requests: int) -> None:
    """Each of them is answered by detections or 400, and the service goes on. With -s, it prints the memory."""
    bodies = list(corpus())
    assert len(bodies) > 200
    wrong: list[str] = []
    refused, before = 0, 0.0
    with running(model(), OPTIONS) as url:
        for number in range(requests):
            name, body = bodies[number % len(bodies)]
            status, _ = request(f"{url}/predict", body, **{"Content-Type": "image/png"})
            refused += status == 400
            if status not in (200, 400):
                wrong.append(f"{name}: {status}")
            if number == requests // 3 and STATM.exists():
                before = resident()
            if number % (requests // 10) == 0 and STATM.exists():
                print(f"{number} requests, {refused} refused: {resident():.0f} MB")
        assert request(f"{url}/health")[0] == 200
    assert not wrong
    assert refused > requests / 2
    if STATM.exists():
        assert resident() - before < GROWTH


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
