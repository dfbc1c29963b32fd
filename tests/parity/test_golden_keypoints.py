"""Detectron2's Keypoint R-CNN stage by stage, its losses and gradients, and its keypoint ops (../shared/golden)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.keypoints import decode_keypoints, keypoint_bins
from rcnn.ops.winograd import winograd
from rcnn.predictor import to_original
from rcnn.preprocess import Frame
from rcnn.structures import Targets
from tests.deviations import assert_at_most, assert_within
from tests.known_features import known_levels
from tests.narrow import present
from tests.parity.golden_detectron2 import assert_stage, golden_detector, golden_images, golden_targets, match_sets
from tests.parity.golden_stages import assert_training, load

NAME = "keypoint_rcnn_R_50_FPN_1x"
LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_loc",
    "box_class": "loss_cls",
    "box_delta": "loss_box_reg",
    "keypoint": "loss_keypoint",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectron2")


def test_decoding_equals_detectron2(shared: Path) -> None:
    stored = np.load(shared / "golden/ops/keypoints.npz")
    heatmaps = torch.from_numpy(stored["heatmaps_f16"].astype(np.float32))
    found = decode_keypoints(heatmaps[None], torch.from_numpy(stored["rois"])[None])[0].numpy()
    expected = stored["xy_logit_score"]
    assert_within("keypoint places", found[..., :2], expected[..., :2], atol=1e-3)
    assert_within("keypoint logits", found[..., 2], expected[..., 2], atol=1e-4)
    assert_within("keypoint scores", found[..., 3], expected[..., 3], rtol=1e-4)


def test_bins_equal_detectron2(shared: Path) -> None:
    stored = np.load(shared / "golden/ops/keypoints.npz")
    keypoints, boxes = (torch.from_numpy(stored[name])[None] for name in ("gt_keypoints", "gt_boxes"))
    bins, valid = keypoint_bins(keypoints, boxes, 56)
    assert np.array_equal(bins[0].numpy(), stored["target_heatmap_index"])
    assert np.array_equal(valid[0].numpy(), stored["target_valid"].astype(bool))


def convolve_in_float64(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`F.conv2d`. Those of 3x3 by Winograd's algorithm: in float64 it differs by 1e-14 and takes half of the time."""
    if (*weight.shape[2:], *stride, *padding, *dilation, groups) == (3, 3, *[1] * 7):
        return winograd(input, weight, bias)
    return F.conv2d(input, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


@torch.no_grad()
@patch("rcnn.models.layers.convolve", convolve_in_float64)
def test_inference_equals_detectron2(shared: Path, folder: Path) -> None:
    """In float64: a score is exp of a logit of up to 100, so that rounding of the maps in float32 is multiplied."""
    detector = golden_detector(shared, NAME, folder).double()
    stored = load(shared, NAME, "inference.npz")
    images = golden_images(shared, detector.config.input.divisor)
    pixels = detector.normalize(images)
    assert_within("input batch", pixels[:, :, ::16, ::16], stored["batch_slice"], atol=1e-4)
    features = detector.features(images)
    for level in detector.rpn.anchors.strides:
        assert_stage(stored, f"feat_{level}", features[level])
    with known_levels(detector, features):
        proposals, detections = detector.rpn.predict({}, images), detector.predict(images)
    inputs = np.load(shared / "golden/detectron2/inputs.npz")
    close, points = 0, 0
    for image in range(2):
        ours = proposals.boxes[image][proposals.valid[image]].numpy()
        order = match_sets(ours, stored[f"proposals{image}_boxes"], None, None)
        assert_within("proposal boxes", ours[order], stored[f"proposals{image}_boxes"], atol=0.01)
        real = detections.valid[image]
        ours = detections.boxes[image][real].numpy()
        order = match_sets(ours, stored[f"det{image}_boxes_resized"], None, None)
        assert_within("detection boxes", ours[order], stored[f"det{image}_boxes_resized"], atol=0.02)
        assert_within(
            "detection scores", detections.scores[image][real].numpy()[order], stored[f"det{image}_scores"], atol=3e-4
        )
        height, width = inputs[f"image{image}"].shape[:2]
        size = (int(images.sizes[image, 0]), int(images.sizes[image, 1]))
        frame = Frame(
            original=(height, width), size=size, resized=size, to_original_scale=(width / size[1], height / size[0])
        )
        original = to_original(detections, image, frame, detector.config)
        resized = present(detections.keypoints)[image][real].numpy()[order]
        for found, expected in (
            (resized, stored[f"det{image}_keypoints_resized"]),
            (present(original.keypoints)[order], stored[f"post{image}_keypoints"]),
        ):
            close += int((np.abs(found[..., :2] - expected[..., :2]).max(-1) <= 0.05).sum())
            points += found[..., 0].size
            assert_within("keypoint scores", found[..., 2], expected[..., 2], rtol=1e-3, fixed=True)
    assert points == 2 * (53 + 60) * 17
    assert_at_most("share of keypoints off by over 0.05 px", 1 - close / points, 0.01)


def test_losses_and_gradients_equal_detectron2(shared: Path, folder: Path) -> None:
    detector = golden_detector(shared, NAME, folder, config="config_train.yaml", suffix=".pth")
    assert_training(detector, shared, load(shared, NAME, "train.npz"), LOSSES, targets)


def targets(shared: Path, empty: tuple[int, ...]) -> Targets:
    """The fixture's persons and their keypoints; all classes are 0."""
    plain = golden_targets(shared, empty)
    stored = np.load(shared / "golden/detectron2/inputs.npz")
    keypoints = torch.zeros(*plain.valid.shape, 17, 3)
    for image in set(range(2)) - set(empty):
        given = torch.from_numpy(stored[f"gt_keypoints{image}"])
        keypoints[image, : len(given)] = given
    return replace(plain, labels=torch.zeros_like(plain.labels), polygons=None, keypoints=keypoints)
