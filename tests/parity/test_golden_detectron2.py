"""Detectron2, stage by stage, for weights converted from its own file formats (../shared/golden/detectron2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.models.heads.box import BoxHead
from tests.known_features import known_levels
from tests.parity.golden_detectron2 import golden_detector, golden_images
from tests.parity.golden_stages import (
    FIRST,
    assert_box_stage,
    assert_detections,
    assert_features,
    assert_proposals,
    assert_training,
    load,
    stored_proposals,
)

INFERENCE = [
    "faster_rcnn_R_50_FPN_1x",
    "mask_rcnn_R_50_FPN_1x",
    "mask_rcnn_R_50_C4_1x",
    "mask_rcnn_R_101_FPN_3x",
]
TRAINING = INFERENCE[:3]
LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_loc",
    "box_class": "loss_cls",
    "box_delta": "loss_box_reg",
    "mask": "loss_mask",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectron2")


@pytest.mark.parametrize("name", INFERENCE)
@torch.no_grad()
def test_inference_equals_detectron2_stage_by_stage(shared: Path, folder: Path, name: str) -> None:
    suffix = ".pth" if name == "faster_rcnn_R_50_FPN_1x" else ".pkl"
    detector = golden_detector(shared, name, folder, suffix=suffix)
    stored = load(shared, name, "inference.npz")
    images = golden_images(shared, detector.config.input.divisor)
    features = assert_features(detector, images, stored)
    assert isinstance(detector.box_head, BoxHead)
    assert_box_stage(detector.box_head, features, stored_proposals(stored, FIRST).boxes, stored)
    with known_levels(detector, features) as levels:
        assert_proposals(detector, levels, images, stored)
        assert_detections(detector, images, stored, shared)


@pytest.mark.parametrize("name", TRAINING)
def test_losses_and_gradients_equal_detectron2(shared: Path, folder: Path, name: str) -> None:
    suffix = ".pth" if name == "mask_rcnn_R_50_C4_1x" else ".pkl"  # each network meets both forms of file somewhere
    detector = golden_detector(shared, name, folder, config="config_train.yaml", suffix=suffix)
    assert_training(detector, shared, load(shared, name, "train.npz"), LOSSES)
