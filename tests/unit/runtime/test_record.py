"""Descriptions in exported files that are valid JSON but wrong, and files that do not fit their description."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rcnn
from rcnn import __version__
from rcnn.models import model_config
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import KEY, ExportRecord, read_record, require_graph

PATH = Path("m.onnx")
RECORD = ExportRecord(config=model_config("faster_rcnn_compact"), classes=("a",), target="onnx", size=(64, 96), batch=2)
SHAPES = {"images": (2, 3, 64, 96), "sizes": (2, 2)}
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
a (float[1] images) => (float[1] boxes) { boxes = Neg (images) }
"""


def test_a_description_is_read_as_it_was_written() -> None:
    assert read_record(RECORD.text(), PATH) == RECORD
    whole = replace(RECORD, size=None, batch=None, with_resize=True)
    assert read_record(whole.text(), PATH) == whole


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "format": ["1", None, 0, True, 1.5],
        "target": ["tf", 5, []],
        "precision": ["float8", None, 5],
        "batch": ["zzz", 0, -1, 1.5, True, []],
        "size": ["zzz", [64], [64, "96"], [0, 96], 64],
        "least_size": [None, [1]],
        "with_resize": [5, None],
        "classes": ["a", None],
        "inputs": ["zzz", [], [[1, 1, 1]], ["images"], ["images", "sizes", "sizes"], ["images", "sizes", "z"]],
        "outputs": ["zzz", [], ["boxes"], [5]],
        "provenance": [None, []],
        "quantization": ["zzz", None],
    }.items(),
)
def test_a_value_of_another_form_is_one_error(name: str, values: list[Any]) -> None:
    written = json.loads(RECORD.text())
    for value in values:
        message = rf"^m.onnx: its description cannot be read \(expected {name} to be .*, got .*\): export"
        with pytest.raises(ValueError, match=message):
            read_record(json.dumps(written | {name: value}), PATH)
    with pytest.raises(ValueError, match=rf"^m.onnx: its description cannot be read \('{name}' is missing\)"):
        read_record(json.dumps({key: value for key, value in written.items() if key != name}), PATH)


def test_a_newer_format_says_which_version_wrote_it() -> None:
    message = (
        rf"^m.onnx was written by rcnn 9.1 in format 2; this is rcnn {__version__}, which reads formats up to 1: up"
    )
    with pytest.raises(ValueError, match=message):
        read_record(json.dumps(json.loads(RECORD.text()) | {"format": 2, "rcnn": "9.1"}), PATH)
    with pytest.raises(ValueError, match="expected a JSON object, got 5"):
        read_record("5", PATH)


@pytest.mark.parametrize(
    ("shapes", "outputs", "message"),
    [
        ({"a": (1,)}, RECORD.outputs, "the inputs images, sizes, but its graph has a: export"),
        (SHAPES, ("boxes",), "the outputs boxes, labels, scores, valid, but its graph has boxes: export"),
        (SHAPES | {"images": (1, 3, 64, 96)}, RECORD.outputs, r"images of 2 x 3 x 64 x 96 .* has 1 x 3 x 64 x 96: ex"),
        (SHAPES | {"images": (2, 3, 64, 64)}, RECORD.outputs, r"images of 2 x 3 x 64 x 96 .* has 2 x 3 x 64 x 64: ex"),
        (SHAPES | {"images": (2,)}, RECORD.outputs, r".*, but its graph has 2: export"),
    ],
)
def test_a_graph_that_its_description_does_not_fit(shapes: Any, outputs: tuple[str, ...], message: str) -> None:
    require_graph(RECORD, PATH, SHAPES, RECORD.outputs)
    require_graph(RECORD, PATH, SHAPES | {"images": (None, 3, None, None)}, RECORD.outputs)
    with pytest.raises(ValueError, match=rf"^m.onnx: its description has {message}"):
        require_graph(RECORD, PATH, shapes, outputs)


@pytest.mark.heavy
def test_an_onnx_file_of_another_program_with_a_description(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    model = onnx.parser.parse_model(GRAPH)
    onnx.helper.set_model_props(model, {KEY: RECORD.text()})
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a.onnx: its description has the inputs images, sizes, but its graph has im"):
        open_exported(tmp_path / "a.onnx", torch.device("cpu"))
    model.graph.node[0].op_type = "Unknown"
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"b.onnx cannot be read as ONNX \("):
        open_exported(tmp_path / "b.onnx", torch.device("cpu"))
    assert capfd.readouterr() == ("", "")  # no banner of onnxruntime


@pytest.mark.heavy
def test_damaged_openvino_files_give_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    path = tmp_path / "a.xml"
    for text, weights, message in (
        ("abc", None, "it does not begin with <net>"),
        ('<?xml version="1.0"?>\n<net name="a" version="11"><layers>', None, f"{tmp_path / 'a.bin'} is missing"),
        ('<?xml version="1.0"?>\n<net name="a" version="11"><layers>', b"", "Start-end tags mismatch at offset 56"),
    ):
        path.write_text(text)
        if weights is not None:
            path.with_suffix(".bin").write_bytes(weights)
        with pytest.raises(
            ValueError, match=f"a.xml cannot be read as OpenVINO \\({message}.*\\): copy it and a.bin again"
        ):
            open_exported(path, torch.device("cpu"))
    assert capfd.readouterr() == ("", "")  # no lines of OpenVINO's readers of other formats


def test_where_exported_files_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ValueError, match=r"a.onnx is an exported file, which only predicts \(rcnn.Predictor"):
        rcnn.load(tmp_path / "a.onnx")
    (tmp_path / "a.PT2").touch()
    with pytest.raises(ValueError, match=r"a.PT2: exported files end with .pt2, in lower case: rename it"):
        rcnn.Predictor(tmp_path / "a.PT2")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "d.onnx")
        with pytest.raises(ValueError, match=r"d\.onnx is not a regular file \(a pipe or a device\?\)"):
            rcnn.Predictor(tmp_path / "d.onnx")
    (tmp_path / "c.bin").touch()
    (tmp_path / "c.xml").touch()
    with pytest.raises(ValueError, match=r"c.bin has the weights of an OpenVINO file: give .*c\.xml"):
        rcnn.Predictor(tmp_path / "c.bin")
    expected = r"b.xml .*; expected a file that `rcnn export` wrote \(and the .bin file beside it\)$"
    with pytest.raises(FileNotFoundError, match=expected):
        rcnn.Predictor(tmp_path / "b.xml")
