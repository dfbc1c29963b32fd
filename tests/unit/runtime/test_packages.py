"""Packages that run exported files send no usage data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SENDS = """
import openvino_telemetry.backend.backend_ga4 as backend
sent = []
backend.GA4Backend.send = lambda self, message: sent.append(message)
"""
CONVERTS = """
import sys, time
import onnx
from pathlib import Path
from rcnn.export.files import store
from rcnn.models import model_config
from rcnn.runtime.record import ExportRecord
before = list(globals().get("sent", []))
graph = "<ir_version: 10, opset_import: ['' : 18]> a (float[1] x) => (float[1] boxes) { boxes = Neg (x) }"
onnx.save(onnx.parser.parse_model(graph.replace("'", '"')), "a.onnx")
record = ExportRecord(
    config=model_config("faster_rcnn_compact"), classes=(), target="openvino", outputs=("boxes",)
)
store(Path("a.onnx"), record, Path("a.xml"))
time.sleep(0.2)  # it sends from another thread
"""


def run(code: str, folder: Path) -> str:
    values = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    words = [sys.executable, "-c", code]
    environment = values | {"HOME": str(folder)}
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, check=True).stdout


@pytest.mark.heavy
def test_openvino_is_imported_without_the_package_that_sends(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    code = CONVERTS + "print([name for name in sys.modules if 'openvino_telemetry' in name])"
    assert run(code, tmp_path) == "[]\n"
    assert not (tmp_path / "intel").exists()
    assert (tmp_path / "a.bin").exists()


@pytest.mark.heavy
def test_a_conversion_sends_nothing_if_the_program_imported_openvino_before(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    code = f"{SENDS}import openvino, time\ntime.sleep(.2)\n{CONVERTS}print(len(before), len(sent))\n"
    code += "openvino.convert_model('a.onnx')\ntime.sleep(.2)\nprint(len(sent) > len(before))"
    assert run(code, tmp_path) == "1 1\nTrue\n"
