"""The whole detector: batches equal single images, edge cases, one graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rcnn.models import Detector, DetectorConfig, build_detector, model_config
from rcnn.models.config import (
    BOX_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    CompactConfig,
    FPNConfig,
    MaskHeadConfig,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SelectionConfig,
)
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.inference import prepare_for_inference
from rcnn.structures import ImageBatch
from tests.narrow import instance, present, total
from tests.unit.random_batches import random_images, random_targets

SEED = torch.tensor(3)


def tiny_fpn() -> DetectorConfig:
    config = model_config("mask_rcnn_compact")
    return replace(
        config,
        num_classes=5,
        backbone=CompactConfig(widths=(16, 16, 16, 16), stem_width=16),
        fpn=FPNConfig(channels=16),
        rpn=replace(
            config.rpn,
            proposals=replace(config.rpn.proposals, post_nms=40, post_nms_train=60),
            sampling=replace(config.rpn.sampling, batch_size=32),
        ),
        box=replace(config.box, fc_width=32, score_threshold=0.0, sampling=replace(config.box.sampling, batch_size=24)),
        mask=MaskHeadConfig(convs=1, width=8),
    )


def tiny_c4() -> DetectorConfig:
    return DetectorConfig(
        name="tiny_c4",
        num_classes=5,
        backbone=ResNetConfig(stages=(2, 3, 4), blocks=(1, 2, 1, 1), width_per_group=16, frozen_stages=0),
        fpn=None,
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=((16, 32, 64),)), proposals=ProposalConfig(post_nms=12, post_nms_train=16)
        ),
        box=BoxHeadConfig(
            trunk="res5",
            score_threshold=0.0,
            pooler=PoolerConfig(size=14),
            sampling=replace(BOX_SAMPLING, batch_size=8),
            selection=SelectionConfig(max_detections=8),
        ),
        mask=MaskHeadConfig(trunk="res5", convs=0, width=16),
    )


def built(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    detector = build_detector(config)
    head = instance(detector.box_head, BoxHead)
    for layer in (detector.rpn.objectness, detector.rpn.deltas, head.logits, head.deltas):
        torch.nn.init.normal_(layer.weight, std=0.05)  # as initialised all scores tie
    for name, value in detector.named_buffers():
        if name.endswith("conv3.norm.weight"):
            value.mul_(0.2)  # else residual sums grow so large that float32's last digit is a pixel
    return detector


@pytest.mark.parametrize("config", [tiny_fpn(), tiny_c4()], ids=lambda c: c.name)
@torch.no_grad()
def test_a_batch_equals_its_single_images_padded_alike(config: DetectorConfig) -> None:
    detector = built(config).eval()
    sizes = [(96, 64), (64, 128), (33, 47)]
    batch = random_images(sizes)
    together = detector.predict(batch)
    assert together.valid.any(1).all()
    for i in range(len(sizes)):
        alone = detector.predict(ImageBatch(pixels=batch.pixels[i : i + 1], sizes=batch.sizes[i : i + 1]))
        assert torch.equal(alone.valid[0], together.valid[i])
        assert torch.equal(alone.labels[0], together.labels[i])
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(present(alone.masks)[0], present(together.masks)[i], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_detections_stay_inside_their_image_and_are_sorted() -> None:
    detections = built(tiny_fpn()).eval().predict(random_images([(96, 64), (64, 128)]))
    for image, (height, width) in enumerate([(96, 64), (64, 128)]):
        boxes = detections.boxes[image][detections.valid[image]]
        assert len(boxes)
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        scores = detections.scores[image][detections.valid[image]]
        assert (scores.diff() <= 0).all()
    assert not detections.scores[~detections.valid].any()


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [1, 500], [8, 2]])
@pytest.mark.parametrize("config", [tiny_fpn(), tiny_c4()], ids=lambda c: c.name)
def test_losses_and_gradients_are_finite_for_any_number_of_objects(config: DetectorConfig, counts: list[int]) -> None:
    sizes = [(64, 96), (96, 64)]
    detector = built(config)
    losses = detector.losses(random_images(sizes), random_targets(sizes, counts, config.num_classes), SEED)
    assert set(losses) == {"rpn_objectness", "rpn_box", "box_class", "box_delta", "mask"}
    total(losses).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    if counts == [0, 0]:
        for name in ("rpn_box", "box_delta", "mask"):
            assert losses[name].item() == 0, name
    assert losses["box_class"].item() > 0


def test_a_mask_head_of_its_own_pools_although_the_box_trunk_outputs_maps() -> None:
    """Its loss is that of the same head when the box head hands on no maps."""
    config = replace(tiny_c4(), mask=MaskHeadConfig(convs=1, width=8))
    detector, images = built(config), random_images([(64, 96)])
    box, mask = instance(detector.box_head, BoxHead), instance(detector.mask_head, MaskHead)
    targets, features = random_targets([(64, 96)], [3], config.num_classes), detector.features(images)
    proposals = detector.rpn.predict(features, images)
    regions, _ = box.losses(features, proposals, images, targets, SEED)
    assert present(regions.maps).shape[2] == 2048
    without = mask.losses(features, replace(regions, maps=None), images, targets, SEED)["mask"]
    assert torch.equal(mask.losses(features, regions, images, targets, SEED)["mask"], without)
    assert without > 0


def test_the_capacity_of_the_targets_changes_no_loss() -> None:
    sizes, config = [(64, 96), (96, 64)], tiny_fpn()
    config = replace(
        config,
        rpn=replace(config.rpn, sampling=replace(config.rpn.sampling, batch_size=10**6)),
        box=replace(config.box, sampling=replace(config.box.sampling, batch_size=10**4)),
    )
    detector = built(config).eval()
    images = random_images(sizes)
    small = detector.losses(images, random_targets(sizes, [3, 5], 5, capacity=8), SEED)
    targets = random_targets(sizes, [3, 5], 5, capacity=8)
    grown: dict[str, Any] = {}
    for name, value in vars(targets).items():
        if isinstance(value, torch.Tensor):
            more = torch.zeros(2, 56, *value.shape[2:], dtype=value.dtype)
            grown[name] = torch.cat([value, more - 1 if name == "polygons" else more], 1)
    large = detector.losses(images, replace(targets, **grown), SEED)
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_no_proposals_give_no_detections() -> None:
    config = tiny_fpn()
    detector = built(
        replace(config, rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, min_size=1e6)))
    ).eval()
    detections = detector.predict(random_images([(64, 64)]))
    assert not detections.valid.any()
    assert not detections.boxes.any()
    assert not present(detections.masks).any()


@torch.no_grad()
def test_no_score_above_the_threshold_gives_no_detections() -> None:
    config = tiny_fpn()
    detector = built(replace(config, box=replace(config.box, score_threshold=1.0))).eval()
    detections = detector.predict(random_images([(64, 64)]))
    assert not detections.valid.any()
    assert present(detections.masks).shape == (1, 100, 28, 28)


def test_no_proposals_still_train() -> None:
    config = tiny_fpn()
    detector = built(replace(config, rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, min_size=1e6))))
    sizes = [(64, 64)]
    losses = detector.losses(random_images(sizes), random_targets(sizes, [2], 5), SEED)
    total(losses).backward()
    assert losses["mask"].item() > 0  # the ground-truth boxes are regions, too


@pytest.mark.parametrize("config", [tiny_fpn(), tiny_c4()], ids=lambda c: c.name)
@torch.no_grad()
def test_prepared_for_inference_computes_the_same(config: DetectorConfig) -> None:
    detector = built(config)
    for name, buffer in detector.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    images = random_images([(96, 64), (64, 128)])
    expected = detector.eval().predict(images)
    got = prepare_for_inference(detector).predict(images)
    assert torch.equal(expected.valid, got.valid)
    torch.testing.assert_close(expected.scores, got.scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(expected.boxes, got.boxes, atol=1e-2, rtol=1e-3)
    assert not any("norm" in name for name, _ in prepare_for_inference(detector).named_buffers())
    changed = prepare_for_inference(detector, keep=False)
    assert changed is detector
    assert torch.equal(changed.predict(images).scores, got.scores)


@torch.no_grad()
def test_bfloat16_is_close_to_float32_and_returns_float32() -> None:
    detector = built(tiny_fpn()).eval()
    images = random_images([(96, 64)])
    features = detector.features(images)
    half = prepare_for_inference(detector, "bfloat16")
    for name, value in half.features(images).items():
        assert value.dtype == torch.bfloat16
        assert (value.float() - features[name]).norm() < 0.03 * features[name].norm()
    detections = half.predict(images)
    assert detections.boxes.dtype == detections.scores.dtype == present(detections.masks).dtype == torch.float32


def test_the_seed_determines_the_sample() -> None:
    sizes, config = [(64, 96)], tiny_fpn()
    detector = built(config).eval()
    images, targets = random_images(sizes), random_targets(sizes, [4], 5)
    first, again, other = (detector.losses(images, targets, torch.tensor(s)) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["rpn_objectness"], other["rpn_objectness"])


def test_invalid_configs_are_refused_with_the_reason() -> None:
    config = tiny_fpn()
    with pytest.raises(ValueError, match=r"rpn\.anchors\.sizes has 1 levels; expected"):
        build_detector(replace(config, rpn=replace(config.rpn, anchors=replace(config.rpn.anchors, sizes=((16,),)))))
    with pytest.raises(ValueError, match=r"box\.trunk=res5 needs a ResNet"):
        build_detector(replace(config, box=replace(config.box, trunk="res5")))
    with pytest.raises(ValueError, match=r"mask\.trunk=res5 shares"):
        build_detector(replace(config, mask=replace(present(config.mask), trunk="res5")))


def test_losses_are_weighted_as_configured() -> None:
    plain = tiny_fpn()
    weighed = replace(
        plain, rpn=replace(plain.rpn, loss_weights=(2.0, 3.0)), box=replace(plain.box, delta_loss_weight=0.5)
    )
    sizes = [(96, 128), (128, 96)]
    images, targets = random_images(sizes), random_targets(sizes, [2, 3], 5)
    detectors = [build_detector(config).train() for config in (plain, weighed)]
    detectors[1].load_state_dict(detectors[0].state_dict())
    one, other = (detector.losses(images, targets, SEED) for detector in detectors)
    factors = {"rpn_objectness": 2.0, "rpn_box": 3.0, "box_delta": 0.5}
    for name, loss in one.items():
        torch.testing.assert_close(other[name], loss * factors.get(name, 1.0))
        assert loss > 0
