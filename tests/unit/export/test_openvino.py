"""OpenVINO files: of a whole detector, and of a small graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.export.files import store
from rcnn.export.write import export_model
from rcnn.models import model_config
from rcnn.runtime.exported import exported_record, open_exported
from rcnn.runtime.record import ExportRecord
from tests.unit.export.detectors import CPU, detector_of, found_without_pixels, require_equal

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
