"""The comparison of an exported file with PyTorch; nothing is traced here."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from typing_extensions import override

from rcnn.export import check, write
from rcnn.export.compare import Difference, compare
from rcnn.export.write import export_model
from rcnn.models import Detector
from rcnn.runtime.record import ExportRecord
from rcnn.structures import Detections
from tests.unit.export.detectors import batch_of, detector_of


def test_a_check_without_detections_lowers_the_threshold_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of random weights are below the threshold. Files are replaced by copies of the detector: faster."""
    detector = detector_of("faster_rcnn_compact", "box.score_threshold=0.999", "box.selection.max_detections=5")
    record = ExportRecord(config=detector.config, classes=(), target="torch", size=(96, 96), batch=1)
    path = tmp_path / "a.pt2"
    files = {path: copy.deepcopy(detector)}

    def opened(path: Path, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(record=record, predict=files[path].predict)

    def write(model: Detector, record: ExportRecord, path: Path) -> None:
        files[path] = copy.deepcopy(model)

    lowered: list[set[float]] = []

    def lower(program: Detector, thresholds: set[float]) -> None:
        lowered.append(thresholds)

    for name, function in (("lower_thresholds", lower), ("write_file", write), ("open_exported", opened)):
        monkeypatch.setattr(check, name, function)
    said: list[str] = []
    difference = check.check_file(path, detector, cast("ExportedProgram", detector), record, said.append, path)
    assert 0.999 in lowered[0]
    assert (difference.matched, difference.unmatched) == (5, 0)
    assert said[-1].startswith("checked on a generated batch with a score threshold of 0: 5 detections matched, 0 not")
    assert len(files) == 2
    assert not files[path].predict(batch_of(1, 96, 96)).valid.any()


def test_thresholds_are_lowered_in_a_traced_program() -> None:
    class Compare(nn.Module):
        @override
        def forward(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return scores > 0.3, scores >= 0.5, scores > 0.4

    scores = torch.tensor([0.1, 0.45])
    program = torch.export.export(Compare(), (scores,))
    check.lower_thresholds(program, {0.3, 0.5})
    found = [value.tolist() for value in program.module()(scores)]
    assert found == [[True, True], [True, True], [False, True]]


def test_a_check_that_compares_nothing_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_of("faster_rcnn_compact")

    def nothing(*arguments: object) -> Difference:
        return Difference()

    monkeypatch.setattr(check, "difference_of", nothing)
    monkeypatch.setattr(check, "_difference_of_copy", nothing)
    monkeypatch.setattr(check, "lower_thresholds", nothing)
    said: list[str] = []
    record = ExportRecord(config=detector.config, classes=(), target="onnx")
    temporary = Path("temporary") / "a.onnx"
    with pytest.warns(UserWarning, match=r"^a\.onnx was not checked: neither it nor the model in PyTorch"):
        check.check_file(
            temporary, detector, cast("ExportedProgram", None), record, said.append, Path("a.onnx")
        )  # fmt: skip
    assert not [line for line in said if line.startswith("checked")]


def test_a_file_without_matching_detections_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with the thresholds of the model nor with 0. Nothing is traced: faster."""
    compared: list[Path] = []

    def differ(path: Path, *arguments: object) -> Difference:
        compared.append(path)
        return Difference(unmatched=3)

    def trace(detector: Detector, record: ExportRecord) -> tuple[None, ExportRecord]:
        return None, record

    def write_file(program: None, record: ExportRecord, path: Path) -> None:
        path.write_bytes(b"a wrong model")

    for name, function in (("difference_of", differ), ("write_file", write_file), ("lower_thresholds", Mock())):
        monkeypatch.setattr(check, name, function)
    monkeypatch.setattr("rcnn.export.write.trace", trace)
    monkeypatch.setattr("rcnn.export.write.write_file", write_file)
    path, said = tmp_path / "model.pt2", list[str]()
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} was not written: none of its detections"):
        export_model(detector_of("faster_rcnn_compact"), path, log=said.append)
    assert not [*tmp_path.iterdir()]  # nor a list of files
    assert len(compared) == 2
    assert said == [
        "tracing faster_rcnn_compact",
        "comparing the file with PyTorch on a generated batch",
        f"no detection matches on a generated batch: {check.LOWERED}",
    ]


@pytest.mark.parametrize("second", [Difference(matched=4), Difference(unmatched=5)])
def test_a_resize_without_matching_detections_is_an_error(
    second: Difference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with the model's threshold, which finds nothing here, then with 0."""
    detector = detector_of("faster_rcnn_compact", "box.score_threshold=0.999")
    record = ExportRecord(config=detector.config, classes=(), target="openvino", with_resize=True, batch=1)
    for name in ("write_onnx", "add_resize", "store", "check_file", "lower_thresholds"):
        monkeypatch.setattr(write, name, Mock())
    monkeypatch.setattr(write, "check_resize", Mock(side_effect=[Difference(), second]))
    said: list[str] = []
    program, output = cast("ExportedProgram", None), Path("model.xml")
    arguments = (program, record, tmp_path / "model.xml", detector, said.append, output)
    if second.matched:
        write.write_with_resize(*arguments)
        assert said[-1].startswith("with the resize in the file, on a generated image with a score threshold of 0: 4 d")
    else:
        with pytest.raises(ValueError, match=r"^model\.xml was not written: .* after the exact resize"):
            write.write_with_resize(*arguments)
    assert said[0].startswith("with the resize in the file, nothing is detected on a generated image: checking")
    assert check.remove_thresholds(detector) == {0.0}


def test_a_file_that_detects_nothing_differs() -> None:
    """Also where all scores are equal: the lowest are ignored only if the other set was cut off."""
    whole = Detections(
        boxes=torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), scores=torch.full((1, 1), 0.5),
        labels=torch.zeros((1, 1), dtype=torch.int64), valid=torch.ones((1, 1), dtype=torch.bool),
    )  # fmt: skip
    nothing = replace(whole, valid=torch.zeros((1, 1), dtype=torch.bool))
    for pair in ((whole, nothing), (nothing, whole)):
        assert compare(*pair).unmatched == 1
    assert compare(nothing, nothing).is_empty


def test_equal_masks_and_keypoints_are_named() -> None:
    """Files of torch.export give exactly the same masks; without them, the line reads as if they were not compared."""
    whole = Detections(
        boxes=torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), scores=torch.full((1, 1), 0.5),
        labels=torch.zeros((1, 1), dtype=torch.int64), valid=torch.ones((1, 1), dtype=torch.bool),
    )  # fmt: skip
    assert compare(whole, whole).text().endswith("largest differences: boxes 0.0e+00 px, scores 0.0e+00")
    masked = replace(whole, masks=torch.full((1, 1, 2, 2), 0.5))
    assert compare(masked, masked).text().endswith("scores 0.0e+00, masks 0.0e+00")
    other = replace(masked, masks=torch.tensor([[[[0.5, 0.5], [0.5, 0.75]]]]))
    assert compare(masked, other).text().endswith("masks 2.5e-01")
    points = replace(whole, keypoints=torch.zeros(1, 1, 3, 3))
    assert compare(points, points).text().endswith("scores 0.0e+00, keypoints 0.0e+00 px")
