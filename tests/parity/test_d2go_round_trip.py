"""The three real files (../shared/weights/d2go) through our format: every bit, and every detection, comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import empty_detector, load_detector
from rcnn.weights.convert import ConvertOptions, convert_to_folder
from rcnn.weights.export import EXPORTS, export_checkpoint
from rcnn.weights.systems.known import convert


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_every_bit_and_detection_comes_back(shared: Path, tmp_path: Path, kind: str) -> None:
    file = shared / "weights" / "d2go" / f"{kind}_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"
    said: list[str] = []
    convert_to_folder(file, tmp_path / "out", ConvertOptions(), said.append)
    assert "read back bit for bit" in said[-1]
    # the file's own tensors, read by torch
    theirs = torch.load(file, weights_only=True)["model"]
    detector, checkpoint = load_detector(tmp_path / "out")
    bits = {value.numpy().tobytes() for value in theirs.values()}
    assert len(theirs) == len(checkpoint.state)
    assert all(value.numpy().tobytes() in bits for value in checkpoint.state.values())
    given = convert(file)
    direct = empty_detector(given.config)
    direct.load_state_dict(given.state)
    photo = sorted((shared / "data" / "coco449").rglob("*.jpg"))[0]
    [one], [other] = (Predictor(each, classes=given.classes).predict([photo]) for each in (detector, direct))
    assert len(one)
    for name in ("boxes", "scores", "labels", "masks", "keypoints"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or a.tobytes() == b.tobytes()


def test_no_other_system_holds_that_network(shared: Path, tmp_path: Path) -> None:
    file = shared / "weights" / "d2go" / "mask_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"
    convert_to_folder(file, tmp_path / "out", ConvertOptions(), lambda line: None)
    for system, (_, export) in EXPORTS.items():
        with pytest.raises(ValueError, match=r"fbnet|ResNet"):
            export_checkpoint(tmp_path / "out", tmp_path / f"back{export.suffixes[0]}", system)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
