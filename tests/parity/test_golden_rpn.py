"""The region proposal network alone against Detectron2's, and RoIAlign against Chainer's two (../shared/golden)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.ops.roi_align import roi_align
from tests.deviations import assert_within
from tests.known_features import known_levels
from tests.parity.golden_detectron2 import (
    assert_rpn_stage,
    golden_detector,
    golden_images,
    golden_targets,
    match_sets,
)
from tests.parity.golden_stages import assert_gradients

NAME = "rpn_R_50_FPN_1x"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectron2")


@torch.no_grad()
def test_proposals_equal_detectron2s(shared: Path, folder: Path) -> None:
    detector = golden_detector(shared, NAME, folder)
    assert detector.config.proposals_only
    assert detector.config.num_classes == 1
    stored = dict(np.load(shared / "golden/detectron2" / NAME / "inference.npz"))
    images = golden_images(shared, detector.config.input.divisor)
    features = detector.features(images)
    with known_levels(detector, features) as levels:
        assert_rpn_stage(stored, levels)
        detections = detector.predict(images)
    inputs = np.load(shared / "golden/detectron2/inputs.npz")
    for image in range(2):
        real = detections.valid[image]
        ours, expected = detections.boxes[image][real].numpy(), stored[f"proposals{image}_boxes"]
        assert len(expected) == 200
        order = match_sets(ours, expected, None, None)
        assert_within("proposal boxes", ours[order], expected, atol=0.01)
        logits = torch.from_numpy(stored[f"proposals{image}_logits"])
        assert_within("proposal scores", detections.scores[image][real].numpy()[order], logits.sigmoid(), atol=1e-4)
        assert (detections.labels[image] == 0).all()
        height, width = inputs[f"image{image}"].shape[:2]
        scale = np.array([width, height] * 2) / images.sizes[image].flip(0).repeat(2).numpy()
        post = stored[f"post{image}_proposal_boxes"]
        order = match_sets(ours * scale, post, None, None)
        assert_within("boxes in the image", (ours * scale)[order], post, atol=0.02)


def test_losses_and_gradients_equal_detectron2s(shared: Path, folder: Path) -> None:
    detector = golden_detector(shared, NAME, folder, config="config_train.yaml", suffix=".pth")
    stored = dict(np.load(shared / "golden/detectron2" / NAME / "train.npz"))
    images, seed = golden_images(shared, detector.config.input.divisor), torch.tensor(0)
    theirs = {"rpn_objectness": "loss_rpn_cls", "rpn_box": "loss_rpn_loc"}

    with known_levels(detector, detector.features(images)):
        losses = detector.losses(images, golden_targets(shared), seed)
        with torch.no_grad():
            of_one = detector.losses(images, golden_targets(shared, empty=(1,)), seed)
    assert set(losses) == set(of_one) == set(theirs)
    for ours, name in theirs.items():
        assert_within("losses", losses[ours].item(), stored[f"loss/{name}"], rtol=1e-4)
        assert_within("losses with an empty image", of_one[ours].item(), stored[f"loss_image1_empty/{name}"], rtol=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients(detector, stored)


@pytest.mark.parametrize(("system", "sampling_ratio"), [("wkentaro", 0), ("dena", 2)])
def test_roi_align_equals_chainers(shared: Path, system: str, sampling_ratio: int) -> None:
    """In float64: a gradient is a sum of many terms, and its float32 rounding would be half of the tolerance."""
    stored = np.load(shared / "golden/chainer/ops/roi_align.npz")
    maps = torch.from_numpy(stored["x"]).double().requires_grad_()
    rois, owner = torch.from_numpy(stored["rois_yxyx"])[:, [1, 0, 3, 2]], torch.from_numpy(stored["roi_indices"])
    boxes = rois.expand(2, -1, -1)
    valid = owner == torch.arange(2)[:, None]  # each image pools its own
    pooled = roi_align([maps], boxes, torch.zeros(2, len(rois)).long(), valid, [1 / 16], 14, sampling_ratio, False)
    own = pooled.sum(0)  # of the two images' places for a region one is empty
    assert_within("pooled features", own, stored[f"y_{system}"], atol=2e-5, fixed=True)
    (own * torch.from_numpy(stored["gy"])).sum().backward()
    assert maps.grad is not None
    assert_within("gradient of the maps", maps.grad, stored[f"gx_{system}"], atol=2e-5, fixed=True)
