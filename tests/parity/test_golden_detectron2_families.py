"""Detectron2's Cascade, DC5, GroupNorm and ResNeXt networks, stage by stage, with losses and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.cascade import CascadeHead
from tests.known_features import known_levels
from tests.narrow import instance
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

CASCADE = "cascade_mask_rcnn_R_50_FPN_1x"
TRAINED = [CASCADE, "mask_rcnn_R_50_DC5_1x", "mask_rcnn_R_50_FPN_3x_gn"]
LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_loc",
    "box_class": "loss_cls",
    "box_delta": "loss_box_reg",
    "mask": "loss_mask",
    **{f"box_class_{stage}": f"loss_cls_stage{stage}" for stage in range(3)},
    **{f"box_delta_{stage}": f"loss_box_reg_stage{stage}" for stage in range(3)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectron2")


@pytest.mark.parametrize("name", [*TRAINED, "mask_rcnn_X_101_32x8d_FPN_3x"])
@torch.no_grad()
def test_inference_equals_detectron2_stage_by_stage(shared: Path, folder: Path, name: str) -> None:
    detector = golden_detector(shared, name, folder)
    stored = load(shared, name, "inference.npz")
    images = golden_images(shared, detector.config.input.divisor)
    features = assert_features(detector, images, stored)
    boxes = stored_proposals(stored, FIRST).boxes
    if isinstance(detector.box_head, CascadeHead):
        assert len(detector.box_head.stages) == 3
        for number, stage in enumerate(detector.box_head.heads()):
            assert_box_stage(stage, features, boxes, stored, number)
            outputs = stage.predict_regions(features, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
            best = outputs.logits[..., :-1].argmax(-1)
            boxes = detector.box_head.refine(stage, outputs, boxes, best, images.sizes)
    else:
        assert_box_stage(instance(detector.box_head, BoxHead), features, boxes, stored)
    with known_levels(detector, features) as levels:
        assert_proposals(detector, levels, images, stored)
        assert_detections(detector, images, stored, shared)


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_equal_detectron2(shared: Path, folder: Path, name: str) -> None:
    detector = golden_detector(shared, name, folder, config="config_train.yaml", suffix=".pth")
    assert_training(detector, shared, load(shared, name, "train.npz"), LOSSES)
