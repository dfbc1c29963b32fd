"""ONNX files of any size and batch, one compact model per kind; test_export.py has Mask R-CNN. Heavy: a minute each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.export.write import export_model
from rcnn.models import Detector
from rcnn.runtime.exported import ExportedModel, open_exported
from tests.unit.export.detectors import CPU, SHAPES, detector_of, found_without_pixels, require_equal

NO_MASKS = ("mask=null", "box.selection.max_detections=20")
KINDS = {  # kind -> model, settings, detections per image
    "faster": ("faster_rcnn_compact", ("box.selection.max_detections=20",), 20),
    "cascade": ("cascade_mask_rcnn_compact", NO_MASKS, 20),
    "keypoint": ("keypoint_rcnn_compact", ("keypoint.convs=1", "box.selection.max_detections=20"), 20),
    # ONNX: some 40 nodes per row
    "fcis": (
        "fcis_compact",
        ("fcis.vote_iou=0", "fcis.groups=2", "fcis.roi_size=4", "fcis.max_detections=20"),
        20,
    ),
    "rpn": ("mask_rcnn_compact", ("proposals_only=true", "num_classes=1", "mask=null"), 40),
}

Kind = tuple[Detector, ExportedModel, int]


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """A detector with random weights, its ONNX file with all defaults, and its number of detections per image."""
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    name, settings, capacity = KINDS[request.param]
    detector = detector_of(name, *settings)
    if detector.config.proposals_only:
        with torch.no_grad():
            detector.rpn.objectness.weight.mul_(50)  # otherwise, all scores are .50: rounding chooses the proposals
    path: Path = tmp_path_factory.mktemp("kinds") / f"{request.param}.onnx"
    written = export_model(detector, path)
    assert written.record.size is written.record.batch is None
    assert written.difference.unmatched == 0
    return detector, open_exported(path, CPU), capacity


@pytest.mark.heavy
def test_each_kind_gives_the_same_detections_at_full_capacity(kind: Kind) -> None:
    """At three sizes, in batches of 1, 4 and 2: every row is a detection."""
    detector, model, capacity = kind
    matched = require_equal(detector, model, *SHAPES, capacity=capacity)
    assert matched == capacity * sum(images for images, _, _ in SHAPES)


@pytest.mark.heavy
@pytest.mark.parametrize("images", [1, 4])
def test_each_kind_without_detections(kind: Kind, images: int) -> None:
    detector, model, _ = kind
    expected, found = found_without_pixels(detector, model, (images, 128, 96))
    assert not expected.valid.any()
    assert not found.valid.any()
    assert not found.boxes.any()
    assert not found.scores.any()
