"""Every named model, made tiny: it builds, overfits two images, predicts, is saved and loaded, and is one graph.

Names whose models are alike when they are tiny (R-50 and R-101, say) share one run.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from rcnn.models import MODELS, Detector, DetectorConfig, build_detector, model_config
from rcnn.models.config import InputConfig, ResNetConfig, TimmConfig, ViTConfig
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.structures import Detections, ImageBatch, Targets
from rcnn.weights.checkpoint import load_detector, save_checkpoint
from tests.unit.random_batches import random_targets

SIZES = [(64, 96), (64, 64)]
MOST_STEPS = 60
FITTED = 0.8  # of the first losses
TINY_TIMM = {"resnet50d": "test_resnet", "convnext_tiny": "test_convnext"}  # Swin has no tiny one


def tiny(name: str) -> DetectorConfig:
    """The model with few channels, blocks and regions."""
    config = model_config(name)
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, depth=50, blocks=(1, 1, 1, 1), frozen_stages=min(backbone.frozen_stages, 1))
    elif isinstance(backbone, TimmConfig):
        pytest.importorskip("timm", reason="timm is not installed: pip install 'rcnn[timm]'")
        backbone = replace(backbone, name=TINY_TIMM.get(backbone.name, backbone.name))
    elif isinstance(backbone, ViTConfig):
        pytest.importorskip("timm", reason="timm is not installed: pip install 'rcnn[timm]'")
        backbone = replace(backbone, name="test_vit", channels=32, window=4, global_blocks=1)
    return replace(
        config,
        name="tiny",
        num_classes=1 if config.proposals_only else 2,
        input=InputConfig(min_size=64, max_size=96, divisor=config.input.divisor),
        backbone=backbone,
        fpn=None if config.fpn is None else replace(config.fpn, channels=32),
        rpn=replace(
            config.rpn,
            anchors=replace(
                config.rpn.anchors,
                sizes=tuple(tuple(max(16.0, size / 2) for size in level) for level in config.rpn.anchors.sizes),
            ),
            proposals=replace(config.rpn.proposals, pre_nms=40, pre_nms_train=60, post_nms=12, post_nms_train=20),
            sampling=replace(config.rpn.sampling, batch_size=64),
        ),
        box=replace(
            config.box,
            convs=min(config.box.convs, 1),
            conv_width=32,
            fc_width=32,
            score_threshold=0.0,
            sampling=replace(config.box.sampling, batch_size=16),
            selection=replace(config.box.selection, max_detections=6),
        ),
        mask=None if config.mask is None else replace(config.mask, convs=min(config.mask.convs, 1), width=32),
        keypoint=None if config.keypoint is None else replace(config.keypoint, convs=1, width=16),
        fcis=None
        if config.fcis is None
        else replace(
            config.fcis,
            width=32,
            max_detections=6,
            score_threshold=0.0,
            mask_threshold=0.05,
            min_size=0.0,
            sampling=replace(config.fcis.sampling, batch_size=16),
        ),
    )


def two_images(config: DetectorConfig) -> tuple[ImageBatch, Targets]:
    """Two objects per image, brighter than the noise around them, with all kinds of targets."""
    generator = torch.Generator().manual_seed(0)
    targets = random_targets(SIZES, [2, 2], num_classes=2, capacity=3, seed=1)
    pixels = torch.randint(0, 60, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    bitmaps = torch.zeros(2, 3, 64, 96, dtype=torch.bool)
    for image in range(2):
        pixels[image, :, :, SIZES[image][1] :] = 0
        for place in range(2):
            x1, y1, x2, y2 = targets.boxes[image, place].round().int().tolist()
            pixels[image, int(targets.labels[image, place]), y1:y2, x1:x2] = 250
            bitmaps[image, place, y1:y2, x1:x2] = True
    keypoints = None
    if config.keypoint is not None:
        share = torch.rand(2, 3, len(config.keypoint.names), 2, generator=generator)
        corner, side = targets.boxes[..., None, :2], (targets.boxes[..., 2:] - targets.boxes[..., :2])[..., None, :]
        keypoints = torch.cat([corner + share * side, torch.full((*share.shape[:3], 1), 2.0)], -1)
    images = ImageBatch(pixels=pixels, sizes=torch.tensor(SIZES))
    return images, replace(targets, bitmaps=bitmaps, keypoints=keypoints)


def fitted(detector: Detector, images: ImageBatch, targets: Targets) -> bool:
    """Whether a few steps on the two images reduce the sum of the losses clearly."""
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=2e-3)
    sums: list[float] = []
    detector.train()
    for step in range(MOST_STEPS):
        loss = torch.stack(list(detector(images, targets, torch.tensor(step)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        sums.append(loss.item())
        if step > 3 and sum(sums[-2:]) < FITTED * sum(sums[:2]):
            return True
    return False


def assert_close(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.valid, expected.valid)
    for name in ("boxes", "scores", "masks"):
        a, b = getattr(found, name), getattr(expected, name)
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)


@cache
def run_through(config: DetectorConfig, folder: Path) -> bool:
    """Runs all checks on a model, once for models that are alike."""
    torch.manual_seed(0)
    detector = build_detector(config)
    images, targets = two_images(config)
    assert fitted(detector, images, targets), f"{MOST_STEPS} steps did not bring the losses to {FITTED} of the first"

    detector.eval()
    found = detector.predict(images)
    assert found.valid.any(1).all()
    for value in (found.boxes, found.scores, found.masks, found.keypoints):
        assert value is None or bool(value.isfinite().all())
    assert (found.masks is not None) == (config.mask is not None or config.fcis is not None)
    assert (found.keypoints is not None) == (config.keypoint is not None)

    save_checkpoint(folder, detector, config, ("one", "other")[: config.num_classes], {})
    again, checkpoint = load_detector(folder)
    assert checkpoint.config == config == config_from_dict(config_to_dict(config))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in detector.state_dict().items())
    assert_close(again.eval().predict(images), found)
    return True


compiled_parts: set[str] = set()


def compile_features(detector: Detector, images: ImageBatch) -> None:
    """Image -> maps is one graph with the values of eager mode; once for each backbone and pyramid."""
    part = repr((detector.backbone, detector.fpn))
    if part in compiled_parts:
        return
    eager = detector.features(images)
    compiled = torch.compile(detector.features, fullgraph=True, backend="eager")(images)
    assert compiled.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-3, msg=name)
    compiled_parts.add(part)


def compile_heads(detector: Detector, images: ImageBatch, targets: Targets) -> None:
    """Maps -> detections and maps -> losses are one graph each; once for each set of heads and their settings."""
    heads = [child for name, child in detector.named_children() if name not in ("backbone", "fpn")]
    settings = {f.name: getattr(detector.config, f.name) for f in fields(detector.config)}
    part = repr((heads, {name: value for name, value in settings.items() if name not in ("backbone", "fpn")}))
    if part in compiled_parts:
        return
    with torch.no_grad():
        maps = detector.features(images)

    def features(images: ImageBatch) -> dict[str, Tensor]:
        return maps

    with patch.object(detector, "features", features):
        seed = torch.tensor(3)
        found, eager = detector.predict(images), detector(images, targets, seed)
        compiled = torch.compile(detector.predict, fullgraph=True, backend="eager")(images)
        losses = torch.compile(detector, fullgraph=True, backend="eager")(images, targets, seed)
    assert_close(compiled, found)
    assert losses.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=1e-3, msg=name)
    compiled_parts.add(part)


@pytest.mark.compile
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_one_graph(name: str) -> None:
    """Features and heads separately, so that each part is traced once for all models that share it."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    config = tiny(name)
    detector = build_detector(config).eval()
    images, targets = two_images(config)
    compile_features(detector, images)
    compile_heads(detector, images, targets)
    assert len(compiled_parts) >= 2


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_builds_trains_predicts_and_is_saved(name: str, checkpoints: Path) -> None:
    config = tiny(name)
    assert run_through(config, checkpoints / str(hash(config)))
