"""Test-time augmentation: one view equals plain prediction, flips cancel, masks and keypoint maps are averaged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import CompactConfig, FPNConfig
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.tta import AugmentedPredictor
from tests.narrow import instance, present
from tests.unit.random_batches import random_images

MODELS = ("mask_rcnn_compact", "keypoint_rcnn_compact", "faster_rcnn_compact")


def tiny(name: str, *settings: str) -> Detector:
    """A random detector with distinct scores, so that rounding does not change the detections."""
    config = override(model_config(name), settings)
    torch.manual_seed(0)
    detector = build_detector(
        replace(
            config,
            num_classes=3,
            input=replace(config.input, min_size=64, max_size=128),
            backbone=CompactConfig(widths=(16, 16, 16, 16), stem_width=16),
            fpn=FPNConfig(channels=16, norm="bn"),
            rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, post_nms=30)),
            box=replace(
                config.box, fc_width=32, score_threshold=0.3, selection=replace(config.box.selection, max_detections=20)
            ),
        )
    )
    head = instance(detector.box_head, BoxHead)
    for layer in (detector.rpn.objectness, detector.rpn.deltas, head.logits, head.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return detector.eval()


def noise(height: int, width: int) -> Tensor:
    return random_images([(height, width)], seed=5).pixels[0].to(torch.uint8)


def names_of(detector: Detector) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(detector.config.num_classes))


def assert_same(found: ImageDetections, expected: ImageDetections, box: float = 1e-3) -> None:
    """Assert the same detections; equal scores may be in any order."""
    assert len(found) == len(expected) > 2
    distance = np.abs(found.boxes[None] - expected.boxes[:, None]).max(-1)
    distance = np.where(found.labels[None] == expected.labels[:, None], distance, np.inf)
    order = distance.argmin(1)
    assert sorted(order) == list(range(len(found)))
    np.testing.assert_allclose(found.boxes[order], expected.boxes, atol=box)
    np.testing.assert_allclose(found.scores[order], expected.scores, atol=1e-5)
    if expected.box_masks is not None:
        np.testing.assert_allclose(present(found.box_masks)[order], expected.box_masks, atol=1e-4)
    if expected.keypoints is not None:
        np.testing.assert_allclose(present(found.keypoints)[order], expected.keypoints, atol=1e-2)


@pytest.mark.parametrize("settings", [(), ("legacy.boxes=inclusive",)], ids=["half_open", "inclusive"])
@pytest.mark.parametrize("name", MODELS)
def test_one_view_at_the_checkpoints_size_equals_plain_prediction(name: str, settings: tuple[str, ...]) -> None:
    detector, image = tiny(name, *settings), noise(75, 100)
    plain = Predictor(detector, classes=names_of(detector)).predict([image])[0]
    augmented = AugmentedPredictor(detector, flip=False, classes=names_of(detector)).predict([image])[0]
    assert_same(augmented, plain)


@pytest.mark.parametrize("name", MODELS)
def test_with_flips_a_flipped_image_has_the_flipped_result(name: str) -> None:
    detector, image = tiny(name), noise(64, 96)
    predictor = AugmentedPredictor(detector, scales=(64, 128), flip=True, classes=names_of(detector))
    found, other = predictor.predict([image, image.flip(-1)])
    boxes = other.boxes.copy()
    boxes[:, [0, 2]] = 96 - other.boxes[:, [2, 0]]
    masks = None if other.box_masks is None else other.box_masks[..., ::-1]
    points = other.keypoints
    if points is not None:
        names = list(present(detector.config.keypoint).names)
        swapped = [name.replace("left", "*").replace("right", "left").replace("*", "right") for name in names]
        points = points[:, [names.index(name) for name in swapped]].copy()
        points[..., 0] = 96 - points[..., 0]
    assert_same(found, replace(other, boxes=boxes, box_masks=masks, keypoints=points))
    plain = Predictor(detector, classes=names_of(detector)).predict([image])[0]
    assert len(plain) != len(found) or np.abs(plain.scores - found.scores).max() > 1e-4  # the views had a say


def test_masks_are_the_mean_of_the_views() -> None:
    detector, image = tiny("mask_rcnn_compact"), noise(64, 96)
    predictor = AugmentedPredictor(detector, flip=True, classes=names_of(detector))
    found = predictor.predict([image])[0]
    detector = predictor.detector
    head = instance(detector.mask_head, MaskHead)
    total = np.zeros_like(present(found.box_masks))
    with torch.inference_mode():
        for mirrored in (False, True):
            batch = random_images([(64, 96)], seed=0)
            batch = replace(batch, pixels=(image.flip(-1) if mirrored else image)[None])
            boxes = torch.from_numpy(found.boxes.copy())
            if mirrored:
                boxes = torch.stack([96 - boxes[:, 2], boxes[:, 1], 96 - boxes[:, 0], boxes[:, 3]], 1)
            for row, (own, label) in enumerate(zip(boxes, found.labels, strict=True)):
                real = torch.ones(1, 1, dtype=torch.bool)
                pooled = head.pooler(detector.features(batch), own[None, None], real).flatten(0, 1)
                mask = head.class_logits(pooled, torch.tensor([[label]]), real).sigmoid()[0, 0].numpy()
                total[row] += (mask[:, ::-1] if mirrored else mask) / 2
    np.testing.assert_allclose(present(found.box_masks), total, atol=1e-4)


@pytest.mark.parametrize("kind", ["soft_linear", "soft_gaussian"])
def test_soft_nms_is_refused(kind: str) -> None:
    detector = tiny("faster_rcnn_compact", f"box.selection.nms={kind}")
    with pytest.raises(ValueError, match=f"box.selection.nms is {kind}, .* set box.selection.nms=hard"):
        AugmentedPredictor(detector, classes=names_of(detector))


def test_an_invalid_scale_is_refused() -> None:
    detector = tiny("faster_rcnn_compact")
    with pytest.raises(ValueError, match="shorter sides"):
        AugmentedPredictor(detector, scales=(0,), classes=names_of(detector))
    for wrong in ("640,800", ["640"], (True,), 6.5e2, 4001):
        scales: Any = [wrong] if isinstance(wrong, float) else wrong
        with pytest.raises(ValueError, match=r"scales=.*; expected shorter sides of 1 to 4000 pixels"):
            AugmentedPredictor(detector, scales=scales, classes=names_of(detector))
    same: list[Any] = [64, np.int64(64), [64], np.array([64]), {64}, range(64, 65)]
    for given in same:
        assert AugmentedPredictor(detector, scales=given, classes=names_of(detector)).scales == (64,)
