"""Every named model, made tiny: it builds, overfits two images, predicts, is saved and loaded, and is one graph.

Names whose models are alike when they are tiny (R-50 and R-101, say) share one run.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnn.models import MODELS, Detector, DetectorConfig, build_detector, model_config
from rcnn.models.config import InputConfig, ResNetConfig, TimmConfig, ViTConfig
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.models.zoo import without_masks
from rcnn.structures import Detections, ImageBatch, Targets
from rcnn.weights.checkpoint import empty_detector, load_detector, save_checkpoint
from tests.compiled import FORWARD
from tests.known_features import known_features
from tests.unit.random_batches import random_targets

SIZES = [(64, 96), (64, 64)]
MOST_STEPS = 60
FITTED = 0.8  # of the first losses
TINY_TIMM = {
    "resnet50d": "test_resnet",
    "convnext_tiny": "test_convnext",
    "swin_tiny_patch4_window7_224": "small_swin",
}


def tiny(name: str) -> DetectorConfig:
    """The model with few channels, blocks and regions."""
    config = model_config(name)
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(
            backbone,
            depth=50,
            blocks=(1, 1, 1, 1),
            groups=min(backbone.groups, 2),
            width_per_group=32 if backbone.norm == "gn" else 8,  # group normalization has 32 groups
            frozen_stages=min(backbone.frozen_stages, 1),
        )
    elif isinstance(backbone, TimmConfig):
        pytest.importorskip("timm", reason="timm is not installed: pip install 'rcnn[timm]'")
        importlib.import_module("tests.tiny_swin")  # which tells timm of it
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
            width=32 if config.rpn.head == "conv" else 0,
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
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=5e-3)
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
    for name in ("boxes", "scores", "labels", "masks", "keypoints"):
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


compiled_stages: set[str] = set()
# the settings that each stage reads
SETTINGS_OF = {
    "features": ("input", "backbone", "fpn"),
    "rpn": ("rpn", "legacy"),
    "box_head": ("num_classes", "input.rescale", "legacy", "box", "cascade", "fcis"),
    "mask_head": ("num_classes", "input.rescale", "legacy", "box", "cascade", "mask"),
    "keypoint_head": ("num_classes", "input.rescale", "legacy", "box", "cascade", "keypoint"),
}


def call(stage: Callable[..., Any], *args: object) -> Any:
    """Runs a stage in eager mode."""
    return stage(*args)


def call_compiled(stage: Callable[..., Any], *args: object) -> Any:
    """Runs a stage in eager mode, and as one graph, which must give the same values."""
    expected = stage(*args)
    found = torch.compile(stage, fullgraph=True, backend=FORWARD)(*args)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    return expected


def tensors(value: object) -> list[Tensor]:
    """The tensors in the output of a stage: a dictionary, a tuple or a dataclass of tensors."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for key in sorted(value) for tensor in tensors(value[key])]
    if isinstance(value, tuple):
        return [tensor for each in value for tensor in tensors(each)]
    if is_dataclass(value):
        return [tensor for f in fields(value) for tensor in tensors(getattr(value, f.name))]
    return []


def graph_key(stage: str, detector: Detector) -> str:
    """What decides the graph of a stage: its modules and settings. Of a number such as .25 only the sign matters.

    In the RPN and the heads, numbers of two or more digits are widths and capacities, which no code asks for.
    """
    names = ("backbone", "fpn") if stage == "features" else (stage,)
    modules = [getattr(detector, name) for name in names]
    settings = [signs(attrgetter(name)(detector.config)) for name in SETTINGS_OF[stage]]
    key = repr((stage, modules, levels_read(modules), settings))
    return key if stage == "features" else re.sub(r"\d{2,}", "many", key)


def levels_read(modules: list[nn.Module | None]) -> list[int]:
    """The number of feature maps that each pooler and the anchors read."""
    parts = [part for module in modules if module is not None for part in module.modules()]
    readers = [getattr(part, name) for part in parts for name in ("pooler", "anchors") if hasattr(part, name)]
    return [len(reader.strides) for reader in readers]


def signs(value: object) -> object:
    """The settings `value` with the sign of each float: code may ask whether a setting is 0, not for its size."""
    if isinstance(value, float):
        return (value > 0) - (value < 0)
    if isinstance(value, tuple):
        return [signs(each) for each in value]
    if is_dataclass(value):
        # features are compiled without gradients, so that frozen stages give the same graph
        read = [f.name for f in fields(value) if f.name != "frozen_stages"]
        return type(value).__name__, {name: signs(getattr(value, name)) for name in read}
    return value


def stages_to_compile(detector: Detector) -> set[str]:
    """The stages of which no model before had the same graph."""
    keys = {stage: graph_key(stage, detector) for stage in SETTINGS_OF}
    keys = {stage: key for stage, key in keys.items() if stage == "features" or getattr(detector, stage) is not None}
    new = {stage for stage, key in keys.items() if key not in compiled_stages}
    compiled_stages.update(keys.values())
    return new


@pytest.mark.compile
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_stage_of_every_model_is_one_graph(name: str) -> None:
    """Each stage by itself, so that it is compiled once for all models that share it.

    test_compile.py, test_keypoint_head.py, test_fcis_head.py and test_legacy_detectors.py compile whole detectors.
    """
    config = tiny(name)
    with torch.device("meta"):
        new = stages_to_compile(empty_detector(config))
    if not new:
        return
    torch.manual_seed(0)
    detector = build_detector(config).eval()
    torch._dynamo.reset()
    run = {stage: call_compiled if stage in new else call for stage in SETTINGS_OF}
    images, targets = two_images(detector.config)
    seed = torch.tensor(3)
    with torch.no_grad():
        maps = run["features"](detector.features, images)
    if detector.box_head is None:
        with torch.no_grad(), known_features(detector, maps):
            assert run["rpn"](detector.predict, images).valid.any()
        run["rpn"](detector.rpn.losses, maps, images, targets, seed)
        return
    with torch.no_grad():
        proposals = run["rpn"](detector.rpn.predict, maps, images)
        detections = run["box_head"](detector.box_head.predict, maps, proposals, images)
        assert detections.valid.any()
    if new == {"features"}:
        return
    proposals, _ = run["rpn"](detector.rpn.losses, maps, images, targets, seed)
    regions, _ = run["box_head"](detector.box_head.losses, maps, proposals, images, targets, seed)
    for stage in ("mask_head", "keypoint_head"):
        head = getattr(detector, stage)
        if head is not None:
            with torch.no_grad():
                run[stage](head.predict, maps, detections, images)
            run[stage](head.losses, maps, regions, images, targets, seed)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_builds_trains_predicts_and_is_saved(name: str, checkpoints: Path) -> None:
    config = tiny(name)
    assert run_through(config, checkpoints / str(hash(config)))


def test_models_without_masks_that_are_alike() -> None:
    for name, other in (
        ("mask_rcnn_r50_fpn", "faster_rcnn_r50_fpn"),
        ("mask_rcnn_compact", "faster_rcnn_compact"),
        ("cascade_mask_rcnn_r50_fpn", "cascade_rcnn_r50_fpn"),
        ("cascade_mask_rcnn_lite0_fpn", "faster_rcnn_lite0_fpn"),
        ("fcis_compact", "faster_rcnn_compact"),
        ("mask_rcnn_swin_tiny_fpn", ""),
        ("fcis_r101_voc", ""),
        ("own", ""),
    ):
        assert without_masks(name) == other
