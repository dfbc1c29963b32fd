"""Every kind of model, target and precision at several sizes and batches; OpenVINO; trained weights. All heavy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rcnn
from rcnn.export.compare import compare
from rcnn.export.write import export_model
from rcnn.models.inference import prepare_for_inference
from rcnn.runtime.exported import exported_record, open_exported
from rcnn.runtime.record import ExportPrecision
from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco
from tests.unit.export.detectors import CPU, SHAPES, batch_of, detector_of, require_equal, require_none

pytestmark = pytest.mark.heavy
KINDS = {
    "faster_rcnn_compact": (),
    "cascade_mask_rcnn_compact": ("mask.convs=1",),
    "keypoint_rcnn_compact": ("keypoint.convs=1",),
    "fcis_compact": ("fcis.vote_iou=0", "fcis.groups=3", "fcis.roi_size=9"),
}
D2GO = "weights/d2go/{}_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"


def few_detections(name: str) -> str:
    """The setting that limits the number of detections."""
    return f"{'fcis' if name.startswith('fcis') else 'box.selection'}.max_detections=20"


def require_package(name: str, extra: str) -> None:
    pytest.importorskip(name, reason=f"needs pip install 'rcnn[{extra}]'")


@pytest.mark.parametrize("name", KINDS)
def test_onnx_of_any_size_and_batch(name: str, tmp_path: Path) -> None:
    """tests/unit/export/test_export.py does this with mask_rcnn_compact."""
    require_package("onnxscript", "onnx")
    detector = detector_of(name, *KINDS[name], few_detections(name))
    model = open_exported(export_model(detector, tmp_path / "model.onnx").path, CPU)
    require_equal(detector, model, *SHAPES, capacity=20)
    require_none(detector, model, (2, 128, 128))


@pytest.mark.parametrize("name", ["mask_rcnn_compact", "fcis_compact"])
def test_a_torch_program_of_any_size_and_batch(name: str, tmp_path: Path) -> None:
    detector = detector_of(name, few_detections(name))
    model = open_exported(export_model(detector, tmp_path / "model.pt2").path, CPU)
    require_equal(detector, model, *SHAPES, capacity=20)
    require_none(detector, model, (2, 128, 128))


@pytest.mark.parametrize("name", ["mask_rcnn_compact", *KINDS])
def test_openvino_of_any_size_and_batch(name: str, tmp_path: Path) -> None:
    require_package("openvino", "openvino")
    detector = detector_of(name, *KINDS.get(name, ()), few_detections(name))
    model = open_exported(export_model(detector, tmp_path / "model.xml").path, CPU)
    require_equal(detector, model, *SHAPES, capacity=20)
    require_none(detector, model, (2, 128, 128))


def test_an_openvino_file_by_the_command_line(tmp_path: Path) -> None:
    """Exported with the resize inside, used in place of the checkpoint; AP is that of `rcnn eval`."""
    require_package("openvino", "openvino")
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 3}, size=(100, 150))
    detector = detector_of("mask_rcnn_compact", "num_classes=2", "input.min_size=128", few_detections("mask"))
    rcnn.save_checkpoint(tmp_path / "model", detector, classes=["square", "disc"])
    file = tmp_path / "model.xml"
    words = ("export", tmp_path / "model", "--output", file, "--with-resize", "--data", data)
    assert command(*words) == 0
    assert exported_record(file).with_resize
    for source, output in ((file, tmp_path / "file"), (tmp_path / "model", tmp_path / "checkpoint")):
        assert command("eval", source, "--data", data, "--output", output, "--pictures", 0) == 0
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("file", "checkpoint")]
    assert metrics[0]["bbox"]["AP"] == pytest.approx(metrics[1]["bbox"]["AP"], abs=0.02)
    photo = tmp_path / "data" / "val" / "val_1.png"
    assert command("predict", file, photo, "--output", tmp_path / "found", "--score", 0) == 0
    assert (tmp_path / "found" / "predictions.json").is_file()
    image = np.asarray(Image.open(photo).convert("RGB"))
    expected, found = rcnn.Predictor(tmp_path / "model").predict(image), rcnn.Predictor(file).predict(image)
    assert len(found) == len(expected) > 0
    # the resize is approximate
    assert np.abs(found.scores - expected.scores).max() < 0.02


@pytest.mark.parametrize(
    ("suffix", "precision", "scores"),
    [(".onnx", "float16", 0.01), (".pt2", "float16", 0.01), (".pt2", "bfloat16", 0.05)],
)
def test_16_bits_are_near_float32(suffix: str, precision: ExportPrecision, scores: float, tmp_path: Path) -> None:
    """Scores of the same rank; boxes of random weights have no clear edges, and detections may swap."""
    require_package("onnxscript", "onnx")
    detector = detector_of("faster_rcnn_compact", few_detections("faster"))
    written = export_model(detector, tmp_path / f"model{suffix}", size=(160, 224), batch=2, precision=precision)
    assert written.record.precision == precision
    images = batch_of(2, 160, 224)
    expected, found = prepare_for_inference(detector).predict(images), open_exported(written.path, CPU).predict(images)
    assert found.scores.dtype == found.boxes.dtype == torch.float32
    assert float((found.scores - expected.scores).abs().max()) < scores
    difference = compare(expected, found)
    assert difference.matched > 2 * difference.unmatched


def test_int8_in_openvino(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_package("openvino", "openvino")
    data = write_tiny_coco(tmp_path / "data", {"train": 2, "val": 2})
    settings = ("num_classes=2", "box.score_threshold=0", few_detections("faster"))
    rcnn.save_checkpoint(tmp_path / "model", detector_of("faster_rcnn_compact", *settings), classes=["square", "disc"])
    file = tmp_path / "int8.xml"
    words = ("export", tmp_path / "model", "--output", file, "--size", "96x128", "--batch", 1)
    assert command(*words, "--precision", "int8", "--calibrate", data) == 0
    assert "bbox AP: float32" in capsys.readouterr().out
    record = exported_record(file)
    assert (record.precision, record.quantization["ap_images"]) == ("int8", 2)
    assert record.quantization["agreement"] > 0.5
    assert 'element_type="i8"' in file.read_text(encoding="utf-8") or 'type="i8"' in file.read_text(encoding="utf-8")
    assert len(rcnn.Predictor(file).predict(np.zeros((64, 90, 3), np.uint8))) > 0


@pytest.mark.parametrize(
    ("kind", "suffix"), [("mask", ".onnx"), ("mask", ".xml"), ("faster", ".onnx"), ("keypoint", ".onnx")]
)
def test_trained_weights_have_the_same_ap(kind: str, suffix: str, shared: Path, tmp_path: Path) -> None:
    """D2Go's models on 8 photos of val2017; AP of the file within .001 of the checkpoint."""
    require_package("openvino" if suffix == ".xml" else "onnxscript", "openvino" if suffix == ".xml" else "onnx")
    rcnn.convert(shared / D2GO.format(kind), tmp_path / "model")
    written = export_model(tmp_path / "model", tmp_path / f"model{suffix}")
    found = [
        rcnn.evaluate(model, shared / "data/coco449", split="val2017", limit=8, ignore_other_classes=True).metrics
        for model in (tmp_path / "model", written.path)
    ]
    kinds = {"mask": {"bbox", "segm"}, "faster": {"bbox"}, "keypoint": {"bbox", "keypoints"}}[kind]
    assert found[0].kinds.keys() == found[1].kinds.keys() == kinds
    for name in kinds:
        expected = found[0].kinds[name]["AP"]
        assert expected is not None
        assert expected > 0.1
        assert found[1].kinds[name]["AP"] == pytest.approx(expected, abs=0.001)
