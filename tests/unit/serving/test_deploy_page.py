"""The curl line and the JavaScript example of docs/deploy.md, against a running service."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.serving.running import ServiceOptions, request, running, tiny_predictor

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:8000"  # of the service in the page
# what a browser has: a page with a file that the user has chosen
FILE = 'new Blob([require("fs").readFileSync("photo.jpg")])'
BROWSER = f"const document = {{ querySelector: () => ({{ files: [{FILE}] }}) }};"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(tiny_predictor(), ServiceOptions(log_requests=False)) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    """The bytes of photo.jpg in `tmp_path`."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(file, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(file.getvalue())
    return file.getvalue()


def require_program(name: str) -> str:
    """The path of a program of the machine."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return path


def test_the_curl_line(url: str, photo: bytes, tmp_path: Path) -> None:
    [line] = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
    words = shlex.split(line.replace(ADDRESS, url).replace("score=0.5", "score=0"))
    done = subprocess.run(
        [require_program("curl"), *words[1:]], cwd=tmp_path, capture_output=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == json.loads(request(f"{url}/predict", photo)[1])
    assert json.loads(done.stdout)["detections"]


def test_the_javascript_example(url: str, photo: bytes, tmp_path: Path) -> None:
    node = require_program("node")
    [code] = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
    code = code.replace(ADDRESS, url).replace("score=0.5", "score=0")
    script = f"{BROWSER}\n(async () => {{\n{code}\n}})();"
    done = subprocess.run([node, "-e", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    if "fetch is not defined" in done.stderr:
        pytest.skip("needs Node.js 18 or later, which has fetch")
    assert done.returncode == 0, done.stderr
    detections = json.loads(request(f"{url}/predict", photo)[1])["detections"]
    expected = [[one["name"], f"{one['score']:.6f}"] for one in detections]
    found = re.findall(r"^(\S+) (0\.\d+) \[", done.stdout, re.MULTILINE)  # an array of Node.js has several lines
    assert [[name, f"{float(score):.6f}"] for name, score in found] == expected
    assert expected
