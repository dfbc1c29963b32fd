"""`torch.compile(fullgraph=True)` of prediction and of the losses: one graph, with the values of eager mode.

The graphs of C4 networks begin at the feature maps: test_zoo.py compiles their backbones.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import ResNetConfig
from rcnn.structures import ImageBatch
from tests.compiled import BACKWARD, FORWARD
from tests.known_features import known_features, leaves
from tests.unit.random_batches import random_images, random_targets

# The other kinds of heads are in test_cascade_compile.py, test_fcis_head.py and test_keypoint_head.py; test_zoo.py
# compiles each stage of every model
NAMES = ("mask_rcnn_r50_c4", "mask_rcnn_fbnetv3a_c4", "mask_rcnn_compact")


def small(name: str) -> Detector:
    """All parts of the real network, but few and narrow blocks, and small capacities."""
    config = model_config(name)
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, blocks=(1, 2, 1, 1), width_per_group=8)
    torch.manual_seed(0)
    return build_detector(
        replace(
            config,
            num_classes=3,
            backbone=backbone,
            rpn=replace(
                config.rpn,
                proposals=replace(config.rpn.proposals, pre_nms=50, pre_nms_train=50, post_nms=20, post_nms_train=20),
                sampling=replace(config.rpn.sampling, batch_size=16),
            ),
            box=replace(
                config.box,
                fc_width=64,
                score_threshold=0.0,
                sampling=replace(config.box.sampling, batch_size=16),
                selection=replace(config.box.selection, max_detections=10),
            ),
        )
    )


def starting_at_maps(detector: Detector, images: ImageBatch) -> tuple[AbstractContextManager[None], dict[str, Tensor]]:
    """A context in which a C4 detector takes given maps, and those maps; other detectors compute their own."""
    if detector.config.fpn is not None:
        return nullcontext(), {}
    maps = leaves(detector, images)
    return known_features(detector, maps), maps


@pytest.mark.compile
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_predict_is_one_graph_and_equals_eager(name: str) -> None:
    torch._dynamo.reset()
    detector = small(name).eval()
    images = random_images([(96, 128), (128, 80)], seed=1)
    expected = detector.predict(images)
    context, _ = starting_at_maps(detector, images)
    with context:
        found = torch.compile(detector.predict, fullgraph=True, backend=FORWARD)(images)
    assert int(expected.valid.sum()) > 0
    assert torch.equal(found.valid, expected.valid)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
    if expected.masks is not None:
        torch.testing.assert_close(found.masks, expected.masks, atol=1e-4, rtol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_backward_are_one_graph_and_equal_eager(name: str) -> None:
    torch._dynamo.reset()
    detector = small(name).train()
    images = random_images([(96, 128), (128, 80)], seed=1)
    targets = random_targets([(96, 128), (128, 80)], [3, 1], num_classes=3, seed=2)
    for module in detector.modules():  # whose running statistics would move with every call
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()

    context, maps = starting_at_maps(detector, images)

    def step(compiled: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        detector.zero_grad(set_to_none=True)
        for value in maps.values():
            value.grad = None
        run = torch.compile(detector, fullgraph=True, backend=BACKWARD) if compiled else detector
        losses = run(images, targets, torch.tensor(5))
        torch.stack(list(losses.values())).sum().backward()
        return losses, {n: p.grad for n, p in (*detector.named_parameters(), *maps.items()) if p.grad is not None}

    with context:
        expected, wanted_gradients = step(compiled=False)
        found, gradients = step(compiled=True)
    assert expected
    assert wanted_gradients
    assert set(gradients) == set(wanted_gradients)
    for loss in expected:
        torch.testing.assert_close(found[loss], expected[loss], atol=1e-5, rtol=1e-4)
    for parameter, gradient in wanted_gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(gradients[parameter] / scale, gradient / scale, atol=1e-3, rtol=1e-3)
