"""OpenVINO files: of a whole detector, also in the commands and in `rcnn.Predictor`, and of a small graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rcnn
from rcnn.export.files import store
from rcnn.export.write import Exported, export_model
from rcnn.models import Detector, model_config
from rcnn.runtime.exported import exported_record, open_exported
from rcnn.runtime.record import ExportRecord
from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco
from tests.unit.export.detectors import (
    CPU,
    annotate,
    detector_of,
    files_of_at_most,
    found_without_pixels,
    require_equal,
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
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    model = onnx.parser.parse_model(POSITIVE)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((8, 64), np.float32), "weights"))
    onnx.save(model, tmp_path / "a.onnx")
    record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=(), target="openvino")
    with (
        pytest.raises(OSError, match=r"^OpenVINO cannot write a.xml \(.*\): is the disk full\?$"),
        files_of_at_most(1000),
    ):
        store(tmp_path / "a.onnx", record, tmp_path / "a.xml")


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path, Exported]:
    """mask_rcnn_compact, its checkpoint, and its OpenVINO file for the padded size that 96 x 128 images have."""
    pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[openvino]'")
    detector = detector_of("mask_rcnn_compact", "num_classes=2", "mask.convs=1", "box.selection.max_detections=20")
    folder, classes = tmp_path_factory.mktemp("openvino"), ["square", "disc"]
    rcnn.save_checkpoint(folder / "model", detector, classes=classes)
    written = export_model(detector, folder / "model.xml", size=(128, 192), batch=1, classes=classes)
    return detector, folder / "model", written


@pytest.mark.heavy
def test_openvino_files_give_the_same_detections(mask_model: tuple[Detector, Path, Exported]) -> None:
    detector, _, written = mask_model
    assert (written.record.target, written.record.precision) == ("openvino", "float32")
    assert written.path.with_suffix(".bin").stat().st_size > 0
    assert exported_record(written.path) == written.record
    assert written.difference.matched > 0
    model = open_exported(written.path, CPU)
    require_equal(detector, model, (1, 128, 192), capacity=20)
    expected, found = found_without_pixels(detector, model, (1, 128, 192))
    assert not expected.valid.any()
    assert not found.valid.any()


@pytest.mark.heavy
def test_the_predictor_runs_an_openvino_file_like_the_checkpoint(mask_model: tuple[Detector, Path, Exported]) -> None:
    _, checkpoint, written = mask_model
    images = list(np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8))
    originals, files = (rcnn.Predictor(model, device="cpu").predict(images) for model in (checkpoint, written.path))
    for expected, found in zip(originals, files, strict=True):
        assert type(found) is type(expected)
        assert len(found) == 20
        assert (found.height, found.width, found.names) == (96, 128, expected.names)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        assert np.mean(found.masks != expected.masks) < 1e-4


@pytest.mark.heavy
def test_the_commands_run_an_openvino_file_like_the_checkpoint(
    mask_model: tuple[Detector, Path, Exported], tmp_path: Path
) -> None:
    _, checkpoint, written = mask_model
    data, photo = write_tiny_coco(tmp_path / "data", {"val": 3}), tmp_path / "photo.png"
    annotate(data, rcnn.Predictor(checkpoint, device="cpu"))
    Image.open(data / "val" / "val_1.png").save(photo)
    predictions: list[list[dict[str, Any]]] = []
    metrics: list[dict[str, Any]] = []
    for name, model in (("checkpoint", checkpoint), ("file", written.path)):
        found, evaluated = tmp_path / f"{name}-found", tmp_path / f"{name}-evaluated"
        assert command("predict", model, photo, "--score", 0, "--device", "cpu", "--output", found) == 0
        words = ("--data", data, "--device", "cpu", "--pictures", 0, "--output", evaluated)
        assert command("eval", model, *words) == 0
        predictions.append(json.loads((found / "predictions.json").read_text())["images"][0]["detections"])
        metrics.append(json.loads((evaluated / "metrics.json").read_text()))
    assert len(predictions[1]) == 20
    for expected, found in zip(*predictions, strict=True):
        assert found.keys() == expected.keys()
        assert found["name"] == expected["name"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert found["box"] == pytest.approx(expected["box"], abs=0.02)  # 0.01, and both are rounded
    for kind in ("bbox", "segm"):
        assert metrics[0][kind]["AP"] > 0.1
        assert metrics[1][kind]["AP"] == pytest.approx(metrics[0][kind]["AP"], abs=0.005)
