"""torch.export programs in 16 bits, compared with PyTorch in the same precision and in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rcnn.export.compare import compare
from rcnn.export.write import Exported, export_model
from rcnn.models import Detector
from rcnn.models.inference import Precision, prepare_for_inference
from rcnn.runtime.exported import open_exported
from tests.unit.export.detectors import CPU, batch_of, detector_of

SHAPE = (2, 96, 160)
SHARE = 0.9  # of the detections that have a match: rounding can change what NMS keeps


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def half_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Exported]:
    """mask_rcnn_compact as a program in 16 bits."""
    detector = detector_of("mask_rcnn_compact", "num_classes=3", "mask.convs=1", "box.selection.max_detections=20")
    file, (batch, *size) = tmp_path_factory.mktemp("half") / "model.pt2", SHAPE
    return detector, export_model(detector, file, size=(size[0], size[1]), batch=batch, precision=request.param)


@pytest.mark.heavy
def test_a_program_in_16_bits_gives_the_detections_of_pytorch_in_16_bits(half_model: tuple[Detector, Exported]) -> None:
    detector, written = half_model
    precision: Any = written.record.precision  # never int8
    found = open_exported(written.path, CPU).predict(batch_of(*SHAPE))
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.valid.sum(1).tolist() == [20, 20]
    expected = prepare_for_inference(detector, precision).predict(batch_of(*SHAPE))
    difference = compare(expected, found)
    rounding = torch.finfo(getattr(torch, precision)).eps / 2  # of 1: 2 ** -11 and 2 ** -8
    assert difference.matched >= SHARE * 40
    assert difference.boxes < 0.05
    assert difference.scores < rounding
    assert difference.masks is not None
    assert difference.masks < rounding


@pytest.mark.heavy
def test_the_weights_and_feature_maps_of_a_program_are_in_16_bits(half_model: tuple[Detector, Exported]) -> None:
    """So its detections differ from those in float32, by more than those of a program in float32 do."""
    detector, written = half_model
    name: Precision = "float16" if written.record.precision == "float16" else "bfloat16"
    dtype = getattr(torch, name)
    program = torch.export.load(written.path)
    weights = [value for value in program.state_dict.values() if value.ndim == 4]
    assert weights
    assert {value.dtype for value in weights} == {dtype}
    convolutions = [node for node in program.graph.nodes if node.target == torch.ops.aten.conv2d.default]
    assert convolutions
    assert {node.meta["val"].dtype for node in convolutions} == {dtype}
    found = open_exported(written.path, CPU).predict(batch_of(*SHAPE))
    difference = compare(prepare_for_inference(detector).predict(batch_of(*SHAPE)), found)
    assert difference.matched > 0
    assert difference.scores > 1e-5
