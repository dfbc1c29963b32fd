"""Detectors with the settings of older systems: one graph, batches equal single images, gradients everywhere.

The graphs begin at the feature maps; test_compile.py and test_zoo.py compile the backbones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rcnn.models import Detector, DetectorConfig, build_detector, model_config
from rcnn.models.config import (
    BOX_SAMPLING,
    BoxHeadConfig,
    CompactConfig,
    FPNConfig,
    LegacyConfig,
    MaskHeadConfig,
    SelectionConfig,
)
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.structures import ImageBatch
from tests.compiled import BACKWARD, FORWARD
from tests.known_features import known_features, leaves
from tests.narrow import instance
from tests.unit.random_batches import random_images, random_targets

IMAGES = [(96, 128), (128, 80)]


def tiny(**changes: Any) -> DetectorConfig:
    config = model_config("mask_rcnn_compact")
    return replace(
        config,
        num_classes=3,
        backbone=CompactConfig(widths=(16, 16, 16, 16), stem_width=16),
        fpn=FPNConfig(channels=16),
        rpn=replace(
            config.rpn,
            proposals=replace(config.rpn.proposals, pre_nms=50, pre_nms_train=50, post_nms=20, post_nms_train=20),
            sampling=replace(config.rpn.sampling, batch_size=16),
        ),
        box=BoxHeadConfig(
            fc_width=16,
            score_threshold=0.0,
            sampling=replace(BOX_SAMPLING, batch_size=16),
            selection=SelectionConfig(max_detections=10),
        ),
        mask=MaskHeadConfig(convs=1, width=8),
        **changes,
    )


def built(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    detector = build_detector(config)
    layers = [detector.rpn.objectness, detector.rpn.deltas]
    if isinstance(detector.box_head, BoxHead):
        layers += [detector.box_head.logits, detector.box_head.deltas]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.05)  # as initialised all scores tie
    return detector.eval()


def with_pooling(kind: Any, **changes: Any) -> DetectorConfig:
    config = tiny(**changes)
    assert config.mask is not None
    return replace(
        config,
        box=replace(config.box, pooler=replace(config.box.pooler, kind=kind, aligned=False)),
        mask=replace(config.mask, pooler=replace(config.mask.pooler, kind=kind, aligned=False)),
    )


CONFIGS = {
    "roi_align": with_pooling("roi_align", legacy=LegacyConfig(boxes="inclusive")),
    "roi_pool": with_pooling("roi_pool", legacy=LegacyConfig(boxes="inclusive")),
    "crop_resize": with_pooling("crop_resize"),
    "affine": with_pooling("affine", legacy=LegacyConfig(boxes="inclusive_loose")),
    "proposals": replace(tiny(), mask=None, num_classes=1, proposals_only=True),
}


def images() -> ImageBatch:
    return replace(random_images(IMAGES, seed=1), scales=torch.tensor([1.6, 0.7]))


@pytest.mark.compile
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_prediction_is_one_graph_and_a_batch_equals_its_images(name: str) -> None:
    torch._dynamo.reset()
    detector, batch = built(CONFIGS[name]), images()
    expected = detector.predict(batch)
    assert expected.valid.any(1).all()
    with known_features(detector, detector.features(batch)):
        found = torch.compile(detector.predict, fullgraph=True, backend=FORWARD)(batch)
    assert torch.equal(found.valid, expected.valid)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
    if expected.masks is not None:
        torch.testing.assert_close(found.masks, expected.masks, atol=1e-4, rtol=1e-4)
    for image in range(2):
        one = slice(image, image + 1)
        scales = None if batch.scales is None else batch.scales[one]
        alone = detector.predict(ImageBatch(pixels=batch.pixels[one], sizes=batch.sizes[one], scales=scales))
        assert torch.equal(alone.valid[0], expected.valid[image])
        torch.testing.assert_close(alone.boxes[0], expected.boxes[image], atol=1e-3, rtol=1e-4)
        if expected.masks is not None:
            assert alone.masks is not None
            torch.testing.assert_close(alone.masks[0], expected.masks[image], atol=1e-4, rtol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_are_one_graph_and_reach_every_weight(name: str) -> None:
    torch._dynamo.reset()
    detector, batch = built(CONFIGS[name]), images()
    targets = random_targets(IMAGES, [3, 1], num_classes=detector.config.num_classes, seed=2)
    losses = detector.losses(batch, targets, torch.tensor(5))
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    with known_features(detector, leaves(detector, batch)):
        found = torch.compile(detector, fullgraph=True, backend=FORWARD)(batch, targets, torch.tensor(5))
    assert set(found) == set(losses)
    for loss, value in losses.items():
        assert value > 0
        torch.testing.assert_close(found[loss], value, atol=1e-5, rtol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["roi_pool", "crop_resize", "affine"])  # test_compile.py has RoIAlign
def test_pooling_and_its_gradient_are_one_graph(name: str) -> None:
    torch._dynamo.reset()
    detector = built(CONFIGS[name])
    pooler = instance(detector.box_head, BoxHead).pooler
    maps = leaves(detector, images())
    boxes = random_targets(IMAGES, [6, 4], num_classes=3, seed=2)
    weight = torch.linspace(-1, 1, boxes.valid.numel() * 16 * 49).view(*boxes.valid.shape, 16, 7, 7).cos()
    results: list[tuple[torch.Tensor, ...]] = []
    for pool in (pooler, torch.compile(pooler.__call__, fullgraph=True, backend=BACKWARD)):
        pooled = pool(maps, boxes.boxes, boxes.valid)
        pooled_maps = [maps[level] for level in pooler.strides]
        results.append((pooled.detach(), *torch.autograd.grad((pooled * weight).sum(), pooled_maps)))
    expected, found = results
    assert sum(bool(gradient.any()) for gradient in expected[1:]) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_proposals_are_detections_of_one_class_scored_by_probability() -> None:
    detector, batch = built(CONFIGS["proposals"]), images()
    assert detector.box_head is None
    assert not [name for name, _ in detector.named_parameters() if "head" in name]
    detections = detector.predict(batch)
    proposals = detector.rpn.predict(detector.features(batch), batch)
    assert torch.equal(detections.boxes, proposals.boxes)
    torch.testing.assert_close(detections.scores[proposals.valid], proposals.objectness[proposals.valid].sigmoid())
    assert detections.labels.eq(0).all()
    targets = random_targets(IMAGES, [3, 1], num_classes=1, seed=2)
    assert set(detector.losses(batch, targets, torch.tensor(5))) == {"rpn_objectness", "rpn_box"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proposals_only": True}, "mask head needs the second stage"),
        ({"proposals_only": True, "mask": None}, "num_classes is 3; expected 1"),
        (
            {"legacy": LegacyConfig(boxes="inclusive"), "cascade": model_config("cascade_rcnn_r50_fpn").cascade},
            "without a cascade",
        ),
    ],
)
def test_contradictory_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_detector(replace(tiny(), **changes))


@pytest.mark.parametrize("name", ["rpn_r50_fpn", "rpn_r50_c4", "rpn_r50_fpn_caffe", "rpn_r50_c4_caffe"])
def test_named_proposal_networks(name: str) -> None:
    config = model_config(name)
    assert config.name == name
    assert config.proposals_only
    assert ("caffe" in name) == (config.input.channel_order == "bgr")
    assert (config.fpn is None) == ("c4" in name)


def test_batches_refuse_scales_and_crowds_of_another_number() -> None:
    batch = images()
    with pytest.raises(ValueError, match=r"scales have shape \(3,\) for 2 images"):
        replace(batch, scales=torch.ones(3))
    targets = random_targets(IMAGES, [3, 1], num_classes=1)
    assert replace(targets, crowds=torch.zeros(2, 5, 4)).to("cpu").crowds is not None
    for shape in ((3, 5, 4), (2, 5, 5), (2, 4)):
        with pytest.raises(ValueError, match=r"crowds have shape .* for 2 images; expected"):
            replace(targets, crowds=torch.zeros(shape))


@pytest.mark.parametrize(
    ("initializer", "deconv", "logits"),
    # He et al. 2015: sqrt(2 / fan out), with 64 * 2 * 2 outputs of a deconvolution's cell, and 3 classes
    [("default", math.sqrt(2 / 256), 0.001), ("normal", 0.01, 0.01), ("he", math.sqrt(2 / 256), math.sqrt(2 / 3))],
)
def test_initial_weights_of_the_mask_head(initializer: Any, deconv: float, logits: float) -> None:
    config = tiny()
    assert config.mask is not None
    head = instance(
        built(replace(config, mask=replace(config.mask, width=64, initializer=initializer))).mask_head, MaskHead
    )
    deconvolution = instance(head.deconv, nn.ConvTranspose2d)
    with torch.no_grad():
        assert float(deconvolution.weight.std()) == pytest.approx(deconv, rel=0.05)
        assert float(head.logits.weight.std()) == pytest.approx(logits, rel=0.2)
    assert not any(instance(layer.bias, torch.Tensor).any() for layer in (deconvolution, head.logits))
