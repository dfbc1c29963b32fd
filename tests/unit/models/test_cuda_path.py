"""Prediction and training on CUDA never wait for the device and have no shape that depends on values; without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rcnn.models import build_detector, model_config
from rcnn.structures import Targets
from tests.device_sync import NoSyncs, module_on_fake_gpu, on_fake_gpu
from tests.unit.random_batches import random_images, random_targets

SIZES = [(64, 96), (96, 64)]
MODELS = [
    "faster_rcnn_compact",
    "mask_rcnn_compact",
    "cascade_mask_rcnn_compact",
    "keypoint_rcnn_compact",
    "fcis_compact",
]


def targets_of(name: str, num_classes: int) -> Targets:
    targets = random_targets(SIZES, [3, 2], num_classes)
    if name == "fcis_compact":
        return Targets(
            boxes=targets.boxes, labels=targets.labels, valid=targets.valid, bitmaps=torch.zeros(2, 8, 96, 96) > 0
        )
    if name == "keypoint_rcnn_compact":
        return Targets(
            boxes=targets.boxes, labels=targets.labels, valid=targets.valid, keypoints=torch.zeros(2, 8, 17, 3)
        )
    return targets


@pytest.mark.parametrize("name", MODELS)
def test_nothing_waits_for_the_gpu(name: str) -> None:
    config = model_config(name)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    detector = module_on_fake_gpu(build_detector(config), mode)
    images = on_fake_gpu(random_images(SIZES), mode)
    targets = on_fake_gpu(targets_of(name, config.num_classes), mode)
    seed = on_fake_gpu(torch.tensor(0), mode)
    with mode, NoSyncs() as checked:
        found = detector.eval().predict(images)
        assert found.boxes.is_cuda
        assert checked.operations > 200
        losses = detector.train().losses(images, targets, seed)
        assert all(loss.is_cuda for loss in losses.values())


@pytest.mark.parametrize("name", MODELS)
def test_nothing_waits_in_the_backward_pass(name: str) -> None:
    """On fake tensors of the meta device: torch differentiates CUDA tensors only where there is a GPU."""
    config = model_config(name)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    detector = module_on_fake_gpu(build_detector(config), mode, "meta")
    images = on_fake_gpu(random_images(SIZES), mode, "meta")
    targets = on_fake_gpu(targets_of(name, config.num_classes), mode, "meta")
    seed = on_fake_gpu(torch.tensor(0), mode, "meta")
    with mode, NoSyncs() as checked:
        losses = detector.train().losses(images, targets, seed)
        before = checked.operations
        torch.stack(list(losses.values())).sum().backward()
        assert checked.operations > before + 100
    assert all(parameter.grad is not None for parameter in detector.parameters() if parameter.requires_grad)


def test_what_waits_is_found() -> None:
    mode = FakeTensorMode()
    values = on_fake_gpu(torch.zeros(3), mode)
    for waits in (
        lambda: values.sum().item(),
        lambda: values.nonzero(),
        lambda: values[values > 0],
        lambda: values.cpu(),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: torch.unique(values),
    ):
        with mode, NoSyncs(), pytest.raises(AssertionError):
            waits()
