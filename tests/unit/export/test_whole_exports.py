"""Whole exports that take minutes: float16 with AP (`--data`), a torch.export program of any size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import rcnn
from rcnn.export.write import export_model
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.runtime.exported import open_exported
from tests.command import rcnn as command
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.export.detectors import (
    CPU,
    annotate,
    detector_of,
    require_equal,
    require_equal_on_small_images,
)

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
    annotate(data, rcnn.Predictor(tmp_path / "checkpoint", device="cpu"))
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
        assert float(found) > 0.1
    assert float(measured[1]) == pytest.approx(float(measured[2]), rel=0.2)
    weights = sum(value.nbytes for value in detector.state_dict().values())
    assert weights > 2_000_000
    assert 0.5 * weights < file.stat().st_size < 0.7 * weights
    types = {output.name: output.type for output in onnxruntime.InferenceSession(str(file)).get_outputs()}
    assert types["boxes"] == types["scores"] == "tensor(float)"


@pytest.mark.heavy
def test_a_torch_program_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on images that are a single cell of the coarsest maps, and with weights in the layout that is fast."""
    load, loaded = torch.export.load, list[torch.export.ExportedProgram]()

    def kept(file: Any) -> torch.export.ExportedProgram:
        loaded.append(load(file))
        return loaded[-1]

    monkeypatch.setattr(torch.export, "load", kept)
    detector = detector_of("mask_rcnn_compact", "mask.convs=1", "box.selection.max_detections=20")
    written = export_model(detector, tmp_path / "model.pt2")
    assert written.record.least_size == (32, 32)
    model = open_exported(written.path, CPU)
    require_equal(detector, model, (2, 160, 224), capacity=20)
    require_equal_on_small_images(detector, model)
    weights = [value for value in loaded[-1].state_dict.values() if value.ndim == 4]
    assert weights
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
