"""Whole exports in other precisions and formats: float16 with AP (`--data`), torch.export of any size, OpenVINO."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rcnn
from rcnn.export.files import store
from rcnn.export.write import export_model
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.runtime.exported import exported_record, open_exported
from rcnn.runtime.record import ExportRecord
from tests.command import rcnn as command
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.export.detectors import (
    CPU,
    detector_of,
    found_without_pixels,
    require_equal,
    require_equal_on_small_images,
)

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
POSITIVE = """
<ir_version: 10, opset_import: ["" : 18]>
positive (float[1, 8] images)
=> (float[1, 64] boxes, float[1, "n"] scores, int64[1, "n"] labels, bool[1, 64] valid)
{
  boxes = MatMul (images, weights)
  zero = Constant <value_float = 0.0> ()
  valid = Greater (boxes, zero)
  ones = Cast <to = 7> (valid)
  count = ReduceSum <keepdims = 0> (ones)
  length = Constant <value_ints = [1]> ()
  k = Reshape (count, length)
  scores, labels = TopK <axis = 1> (boxes, k)
}
"""
NO_MASKS = [word for word in TINY_MODEL if not word.startswith("mask.")]


@pytest.mark.heavy
def test_a_float16_file_and_its_average_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed AP is that of `rcnn.evaluate`, for the checkpoint and for the file; boxes and scores stay float32."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    torch.manual_seed(0)
    settings = [*NO_MASKS, "num_classes=2", "box.fc_width=512", "box.score_threshold=0"]
    detector = build_detector(override(model_config("faster_rcnn_compact"), settings))
    rcnn.save_checkpoint(tmp_path / "checkpoint", detector, classes=["square", "disc"])
    data, file = write_tiny_coco(tmp_path / "data", {"val": 3}), tmp_path / "half.onnx"
    shape = ("--size", "96x128", "--batch", 1)
    words = ("export", tmp_path / "checkpoint", "--output", file, *shape, "--precision", "float16", "--data", data)
    assert command(*words) == 0
    printed, progress = capsys.readouterr()
    matched = re.search(r"checked on a generated batch: (\d+) detections? matched", progress)
    assert matched
    assert int(matched[1]) > 10
    assert "measuring AP on 3 images of val" in progress
    measured = re.search(r"^bbox AP: checkpoint ([\d.]+), file ([\d.]+)$", printed, flags=re.MULTILINE)
    assert measured
    for model, found in zip((tmp_path / "checkpoint", file), measured.groups(), strict=True):
        expected = rcnn.evaluate(model, data, device="cpu", workers=0).metrics.kinds["bbox"]["AP"]
        assert float(found) == pytest.approx(expected, abs=6e-5)
        assert float(found) > 0
    assert float(measured[1]) == pytest.approx(float(measured[2]), rel=0.2)
    weights = sum(value.nbytes for value in detector.state_dict().values())
    assert weights > 2_000_000
    assert 0.5 * weights < file.stat().st_size < 0.7 * weights
    types = {output.name: output.type for output in onnxruntime.InferenceSession(str(file)).get_outputs()}
    assert types["boxes"] == types["scores"] == "tensor(float)"


@pytest.mark.heavy
def test_a_torch_program_of_any_size(tmp_path: Path) -> None:
    """Also on images that are a single cell of the coarsest maps, and with weights in the layout that is fast."""
    detector = detector_of("mask_rcnn_compact", "mask.convs=1", "box.selection.max_detections=20")
    written = export_model(detector, tmp_path / "model.pt2")
    assert written.record.least_size == (32, 32)
    model = open_exported(written.path, CPU)
    require_equal(detector, model, (2, 160, 224), capacity=20)
    require_equal_on_small_images(detector, model)
    weights = [value for value in torch.export.load(written.path).state_dict.values() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)


@pytest.mark.heavy
def test_openvino_files_give_the_same_detections(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    detector = detector_of("mask_rcnn_compact", "mask.convs=1", "box.selection.max_detections=20")
    written = export_model(detector, tmp_path / "model.xml", to="openvino", size=(160, 224), batch=1)
    assert (tmp_path / "model.bin").stat().st_size > 0
    assert exported_record(written.path) == written.record
    assert written.difference.matched > 0
    model = open_exported(written.path, CPU)
    require_equal(detector, model, (1, 160, 224), capacity=20)
    expected, found = found_without_pixels(detector, model, (1, 160, 224))
    assert not expected.valid.any()
    assert not found.valid.any()


@pytest.mark.heavy
def test_weights_of_an_openvino_file_are_float16(tmp_path: Path) -> None:
    """Also where a size depends on them, which OpenVINO's own compression leaves in float32."""
    openvino = pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    model = onnx.parser.parse_model(POSITIVE)
    generator = np.random.default_rng(0)
    weights, image = generator.standard_normal((8, 64), np.float32), generator.standard_normal((1, 8), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    onnx.save(model, tmp_path / "a.onnx")
    sizes: dict[str, int] = {}
    for precision, dtype in (("float32", np.float32), ("float16", np.float16)):
        record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=(), target="openvino")
        store(tmp_path / "a.onnx", replace(record, precision=precision), tmp_path / f"{precision}.xml")
        found = openvino.Core().compile_model(tmp_path / f"{precision}.xml", "CPU", FLOAT32)(image)
        expected = image @ weights.astype(dtype).astype(np.float32)
        np.testing.assert_allclose(found["boxes"], expected, atol=1e-5)
        np.testing.assert_allclose(found["scores"][0], np.sort(expected[expected > 0])[::-1], atol=1e-5)
        sizes[precision] = (tmp_path / f"{precision}.bin").stat().st_size
    assert 4 * weights.size <= sizes["float32"] < 4 * weights.size + 200
    assert 2 * weights.size <= sizes["float16"] < 2 * weights.size + 200
