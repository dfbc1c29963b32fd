"""mask-faster-rcnn's files: one image to masks, by slow code written from its rules and by ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems import mask_faster_rcnn
from rcnn.weights.systems.known import convert
from tests.parity.golden_detectron2 import match_sets
from tests.unit.weights.mask_faster_rcnn_peer import (
    CLASSES,
    WORDS,
    Slow,
    SlowMobileNet,
    SlowVGG,
    faster_state,
    peer_state,
)
from tests.unit.weights.state_dicts import convert_state

IMAGE = np.random.default_rng(1).integers(0, 256, (61, 83, 3), dtype=np.uint8)


def predicted(config: DetectorConfig, state: dict[str, Tensor]) -> ImageDetections:
    detector = empty_detector(config)
    detector.load_state_dict(state)
    [found] = Predictor(detector.eval(), classes=["a", "b", "c"], device="cpu").predict(
        [torch.from_numpy(IMAGE).permute(2, 0, 1)]
    )
    return found


def assert_equal(found: ImageDetections, slow: Slow, topk: int = 30) -> None:
    """The detections are those of the slow code: boxes, classes, scores, and masks if it has any."""
    boxes, labels, scores, masks = slow.detect(IMAGE, 90, 150, topk)
    ours = found.boxes - np.array([0, 0, 1, 1], np.float32)  # theirs end on the last pixel
    assert len(boxes) > 10
    order = match_sets(ours, boxes, found.labels, labels)
    np.testing.assert_allclose(ours[order], boxes, atol=2e-2)
    np.testing.assert_allclose(found.scores[order], scores, atol=1e-4)
    assert (found.box_masks is None) == (masks is None)
    if masks is None:
        return
    canvases = np.zeros_like(masks)
    pasted = list(found.pasted_masks() or ())
    for canvas, place in zip(canvases, order, strict=True):
        x0, y0, part = pasted[place]
        canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    assert masks.any()
    assert (canvases != masks).mean() < 1e-3


@torch.no_grad()
def test_an_image_by_the_rules_and_by_us(tmp_path: Path) -> None:
    state = peer_state()
    torch.save(state, tmp_path / "res101_mask_rcnn_iter_1250000.pth")
    converted = convert(tmp_path / "res101_mask_rcnn_iter_1250000.pth", WORDS)
    assert converted.skipped == ("resnet.fc.weight", "resnet.fc.bias")
    assert_equal(predicted(converted.config, converted.state), Slow(state))


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ("POOLING_ALIGN=True", {"align": True}),
        ("RESNET.MAX_POOL=True", {"max_pool": True}),
        ("TEST.MODE=top TEST.RPN_TOP_N=60", {"top": 60}),
    ],
)
@torch.no_grad()
def test_options_by_the_rules_and_by_us(words: str, rules: dict[str, Any]) -> None:
    state = peer_state()
    converted = convert_state(mask_faster_rcnn.SYSTEM, state, f"{WORDS} {words}")
    assert_equal(predicted(converted.config, converted.state), Slow(state, **rules))


@pytest.mark.parametrize(("network", "slow"), [("vgg16", SlowVGG), ("mobilenet_v1", SlowMobileNet)])
@torch.no_grad()
def test_other_networks_by_the_rules_and_by_us(network: str, slow: type[Slow]) -> None:
    state = faster_state(network)
    assert mask_faster_rcnn.SYSTEM.recognises(state)
    converted = convert_state(mask_faster_rcnn.SYSTEM, state, WORDS)
    assert converted.config.backbone.kind == network
    assert converted.config.name == f"faster_rcnn_{network}"
    assert_equal(predicted(converted.config, converted.state), slow(state, max_pool=True))


def test_aligned_pooling_depends_on_each_image_not_on_the_padding_of_its_batch() -> None:
    """The images of a batch are pooled as alone."""
    converted = convert_state(mask_faster_rcnn.SYSTEM, peer_state(), f"{WORDS} POOLING_ALIGN=True")
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    predictor = Predictor(detector.eval(), classes=["a", "b", "c"], device="cpu")
    image = torch.from_numpy(IMAGE).permute(2, 0, 1)
    boxes = np.array([[5.0, 7.0, 50.0, 40.0]])
    alone = predictor.predict(image, boxes=boxes)
    beside = predictor.predict([image, image.repeat(1, 1, 2)[:, :, :120]], boxes=[boxes, boxes])[0]
    np.testing.assert_allclose(beside.scores, alone.scores, atol=0.02)  # zeros beside the map differ at the border


def test_settings_come_from_the_file() -> None:
    state = {name: torch.zeros_like(value) for name, value in peer_state().items()}
    assert mask_faster_rcnn.SYSTEM.recognises(state)
    config = convert_state(
        mask_faster_rcnn.SYSTEM, state, "TEST.MAX_SIZE=1333 POOLING_MODE=pool TRAIN.GAMMA=0.1"
    ).config
    assert (config.input.max_size, config.box.pooler.kind, config.num_classes) == (1333, "roi_pool", CLASSES)
    assert config.rpn.anchors.sizes == ((64.0, 128.0, 256.0, 512.0),)
    assert config.legacy.boxes == "inclusive_loose"
    assert convert_state(mask_faster_rcnn.SYSTEM, state, "ANCHOR_RATIOS=[0.25,1,4]").config.rpn.anchors.ratios == (
        0.25,
        1.0,
        4.0,
    )
    assumed = convert_state(mask_faster_rcnn.SYSTEM, state, "TRAIN.GAMMA=0.1").notes
    assert any("TRAIN.GAMMA" in sentence for sentence in assumed)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [("TEST.MODE=best", "'nms' or 'top'"), ("POOLING_MODE=warp", "'crop' or 'pool'"),
     ("TEST.MAX_SIZE=x", "such as 1000"),
     ("ANCHOR_SCALES=[4,8]", "rpn.anchors.sizes and rpn.anchors.ratios"),
     ("TEST.SCALES=[]", "with config (--config) TEST.SCALES=[]: its settings"),
     ("ANCHOR_RATIOS=[1,2]", "ANCHOR_RATIOS"), ("res101.yml", "neither a file nor settings")],
)  # fmt: skip
def test_invalid_settings(words: str, wrong: str) -> None:
    state = {name: torch.zeros_like(value) for name, value in peer_state().items()}
    with pytest.raises(ValueError, match=re.escape(wrong)):
        convert_state(mask_faster_rcnn.SYSTEM, state, words)
