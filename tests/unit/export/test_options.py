"""Options of an export that are refused before anything is traced, and what the command prints where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.export import write
from rcnn.export.accuracy import Accuracy
from rcnn.export.compare import Difference
from rcnn.export.write import Exported, export_model
from rcnn.models import model_config
from rcnn.runtime.record import ExportPrecision, ExportRecord
from tests.command import rcnn as command
from tests.unit.export.detectors import detector_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "ab"}, r"classes \(classes=\): classes is the text 'ab'; expected a list of names"),
        ({"classes": ["a", "a"]}, "got a twice or more"),
        ({"classes": ["a"]}, r"got 1 class name, expected 2"),
        ({"size": "800x1333"}, r"size='800x1333'; expected \(height, width\), e\.g\. \(800, 1333\), or 'dynamic'"),
        ({"size": 800}, r"size=800; expected \(height, width\)"),
        ({"size": (800, 1333)}, "size=800x1333; faster_rcnn_compact puts images on a canvas of 320x320: leave"),
        ({"size": np.array([800, 1333])}, "size=800x1333; faster_rcnn_compact puts images on a canvas"),
        ({"size": np.array(800)}, r"size=\(800,\); expected \(height, width\)"),
        ({"size": (np.int64(800), np.int64(1333))}, "size=800x1333; faster_rcnn_compact puts images on a canvas"),
        ({"batch": True}, "batch=True; expected an int, 1 to 1,024, or 'dynamic'"),
        ({"log": 5}, "log=5; expected a function that takes one line, e.g. print, or None"),
        ({"precision": "int8", "calibrate": 5}, r"got 5 \(int\) for calibrate \(--calibrate\); expected a data set or"),
        ({"precision": "int8", "calibrate": ["a"]}, r"got \['a'\] \(list\) for calibrate \(--calibrate\); expected"),
        ({"precision": "int8", "calibrate": ""}, r"got an empty text for calibrate \(--calibrate\); expected a data"),
        ({"data": 5}, r"got 5 \(int\) for data \(--data\); expected a data set or a folder"),
        ({"batch": "2"}, "batch='2'; expected an int, 1 to 1,024, or 'dynamic'"),
    ],
)
def test_options_of_another_form_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    words = ["num_classes=2", "input.canvas=320", "input.max_size=320", "input.min_size=320"]
    detector = detector_of("faster_rcnn_compact", *words)
    with pytest.raises(ValueError, match=message):
        export_model(detector, tmp_path / "a.pt2", **options)
    assert not [*tmp_path.iterdir()]


def test_what_torch_files_do_not_have_is_refused_without_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="it is a part of ONNX graphs; use --to onnx or --to openvino"):
        export_model(detector_of("faster_rcnn_compact"), tmp_path / "a.pt2", with_resize=True)
    with pytest.raises(ValueError, match="int8 needs the quantizers of onnxruntime and OpenVINO"):
        export_model(detector_of("faster_rcnn_compact"), tmp_path / "a.pt2", precision="int8", calibrate=tmp_path)


def test_results_are_printed_on_stdout_and_progress_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exported(checkpoint: Path, path: Path, *, log: Callable[[str], object], **options: object) -> Exported:
        log("tracing faster_rcnn_compact")
        record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=(), target="onnx")
        accuracy = Accuracy(images=2, models=("checkpoint", "file"), before={"bbox": 0.5, "segm": None},
                            after={"bbox": 0.25, "segm": None})  # fmt: skip
        return Exported(path=path, record=record, difference=Difference(), accuracy=accuracy, bytes=250_000)

    monkeypatch.setattr(write, "export_model", exported)
    assert command("export", "model", "--output", tmp_path / "a.onnx") == 0
    printed = capsys.readouterr()
    assert printed.err == "tracing faster_rcnn_compact\n"
    assert printed.out.splitlines() == [
        "bbox AP: checkpoint 0.5000, file 0.2500",
        "segm AP: checkpoint none, file none",
        f"wrote {tmp_path / 'a.onnx'} (0.2 MB, float32)",
    ]


@pytest.mark.parametrize(
    ("precision", "difference", "line"),
    [
        (
            "float16",
            Difference(boxes=0.004, scores=2e-5, masks=3e-4, matched=12, unmatched=1),
            "compared with PyTorch: 12 detections matched, 1 not; largest differences: boxes 4.0e-03 px, scores "
            "2.0e-05, masks 3.0e-04",
        ),
        ("int8", Difference(), "compared with the float32 file: not checked: nothing was detected"),
    ],
)
def test_a_written_file_as_text(precision: ExportPrecision, difference: Difference, line: str) -> None:
    record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=(), target="onnx", precision=precision)
    accuracy = Accuracy(images=2, models=("float32", "int8"), before={"bbox": 0.5}, after={"bbox": 0.25})
    written = Exported(path=Path("a.onnx"), record=record, difference=difference, bytes=1_250_000)
    assert str(written) == f"wrote a.onnx (1.2 MB, {precision})\n{line}"
    assert str(replace(written, accuracy=accuracy)).splitlines()[0] == "bbox AP: float32 0.5000, int8 0.2500"
