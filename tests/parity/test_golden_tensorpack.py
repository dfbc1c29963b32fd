"""tensorpack, stage by stage, for weights converted from its own file (../shared/golden/tensorpack)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from rcnn.models.heads.box import BoxHead
from rcnn.ops.boxes import clip_boxes
from rcnn.ops.deltas import decode_deltas
from rcnn.ops.pasting import paste_as
from rcnn.structures import ImageBatch
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.known import convert
from tests.deviations import assert_within
from tests.narrow import instance
from tests.parity.golden_detectron2 import match_sets
from tests.parity.peer_tensorpack import SETTINGS, peer_image, peer_shapes, write_peer_file

CASES = {
    "fpn": (True, ""),
    "joint": (True, "FPN.PROPOSAL_MODE=Joint"),
    "s1x1": (True, "BACKBONE.STRIDE_1X1=True"),
    "c4": (False, "MODE_FPN=False"),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_inference_equals_tensorpack_stage_by_stage(shared: Path, tmp_path: Path, case: str) -> None:
    pyramid, settings = CASES[case]
    write_peer_file(tmp_path / "model.npz", peer_shapes(pyramid=pyramid), suffix=":0" if case == "fpn" else "")
    converted = convert(tmp_path / "model.npz", f"{SETTINGS} {settings}")
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    detector.eval()
    stored = np.load(shared / f"golden/tensorpack/golden_{case}.npz")

    pixels = torch.from_numpy(peer_image()[:, :, ::-1].copy()).permute(2, 0, 1)[None]
    height, width = pixels.shape[2:]
    divisor = converted.config.input.divisor or 1
    padded = torch.zeros(1, 3, -(-height // divisor) * divisor, -(-width // divisor) * divisor, dtype=torch.uint8)
    padded[:, :, :height, :width] = pixels
    images = ImageBatch(pixels=padded, sizes=torch.tensor([[height, width]]))

    maps = detector.backbone(detector.normalize(images))
    features = detector.features(images)
    compared = 0
    for name, value in (maps | features).items():
        if f"{name}_shape" not in stored:
            continue
        compared += 1
        assert tuple(value.shape) == tuple(stored[f"{name}_shape"]), name
        assert_within("channel means", value.mean((0, 2, 3)), stored[f"{name}_mean"], rtol=1e-4, atol=1e-4)
        assert_within("corner of the maps", value[0, :8, :3, :3], stored[f"{name}_corner"], rtol=1e-4, atol=1e-4)
    assert compared == (9 if pyramid else 1)

    proposals = detector.rpn.predict(features, images)
    ours = proposals.boxes[0][proposals.valid[0]].numpy()
    order = match_sets(ours, stored["prop_boxes"], None, None)
    assert_within("proposal boxes", ours[order], stored["prop_boxes"], atol=2e-3)
    assert_within("proposal logits", proposals.objectness[0][order], stored["prop_scores"], atol=1e-4)

    # the second stage on the stored proposals
    boxes = torch.from_numpy(stored["prop_boxes"])[None]
    logits, deltas, *_ = instance(detector.box_head, BoxHead).predict_regions(
        features, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool)
    )
    scores = logits[0].softmax(-1).roll(1, 1)  # background first
    assert_within("class scores", scores, stored["all_scores"], atol=1e-4)
    box = converted.config.box
    moved = decode_deltas(deltas[0], boxes[0][:, None], box.delta_weights, box.max_log_scale)
    moved = clip_boxes(moved.flatten(0, 1)[None], images.sizes)[0].view(moved.shape)
    assert_within("refined boxes", moved, stored["all_boxes"][:, 1:], atol=2e-3)

    detections = detector.predict(images)
    real = detections.valid[0]
    labels = detections.labels[0][real].numpy()
    ours = detections.boxes[0][real].numpy()
    order = match_sets(ours, stored["boxes"], labels, stored["labels"] - 1)
    assert_within("detection boxes", ours[order], stored["boxes"], atol=2e-3)
    assert_within("detection scores", detections.scores[0][real][order], stored["scores"], atol=1e-4)
    assert detections.masks is not None
    assert_within("mask probabilities", detections.masks[0][real][order], stored["masks"], atol=1e-4)


@pytest.mark.parametrize(("kind", "key"), [("accurate", "p1"), ("rounded", "p2")])
def test_pasting_equals_tensorpacks_two_ways(shared: Path, kind: Literal["accurate", "rounded"], key: str) -> None:
    stored = np.load(shared / "golden/tensorpack/paste.npz")
    mask, box = torch.from_numpy(stored["mk"])[None], torch.from_numpy(stored["bx"])[None]
    [(x0, y0, region)] = paste_as(kind, mask, box, stored[key].shape)
    canvas = np.zeros(stored[key].shape, bool)
    canvas[y0 : y0 + region.shape[0], x0 : x0 + region.shape[1]] = region
    np.testing.assert_array_equal(canvas, stored[key].astype(bool))
