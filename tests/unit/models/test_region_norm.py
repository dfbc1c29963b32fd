"""Batch norm over regions with padding: the values of PyTorch's norm on the valid regions only."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models import build_detector, model_config
from rcnn.models.config import ResNetConfig
from rcnn.models.heads.region_norm import SyncBatchNorm2d, masked_batch_norm
from rcnn.runtime.processes import Processes
from tests.narrow import present
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.process_runs import in_processes


def test_equals_pytorchs_norm_of_the_valid_regions() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    real = torch.rand(20) > 0.4
    for _ in range(3):
        x = (torch.randn(20, 6, 5, 5) * 3 + 100).requires_grad_()
        y = x.detach()[real].requires_grad_()
        found, expected = masked_batch_norm(ours, x, real), theirs(y)
        torch.testing.assert_close(found[real], expected, atol=1e-4, rtol=1e-4)
        grad = torch.randn_like(expected)
        found[real].backward(grad)
        expected.backward(grad)
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad[real], y.grad, atol=1e-4, rtol=1e-3)
        assert not x.grad[~real].any()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-3, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-4, rtol=1e-5)


def test_without_valid_regions_statistics_do_not_change() -> None:
    norm = nn.BatchNorm2d(4)
    found = masked_batch_norm(norm, torch.randn(3, 4, 2, 2), torch.zeros(3, dtype=torch.bool))
    assert found.isfinite().all()
    assert torch.equal(present(norm.running_mean), torch.zeros(4))
    assert torch.equal(present(norm.running_var), torch.ones(4))


@pytest.mark.parametrize("name", ["mask_rcnn_compact", "cascade_mask_rcnn_compact", "mask_rcnn_r50_c4"])
def test_padding_regions_do_not_change_heads_with_batch_norm(name: str) -> None:
    config = model_config(name)
    rpn = replace(config.rpn, proposals=replace(config.rpn.proposals, pre_nms_train=40, post_nms_train=12))
    config = replace(config, num_classes=3, rpn=replace(rpn, width=32))
    if isinstance(config.backbone, ResNetConfig):
        backbone = replace(config.backbone, blocks=(1, 1, 1, 1), width_per_group=8, norm="bn")
        config = replace(config, backbone=backbone)
    else:
        assert config.mask is not None
        box = replace(config.box, convs=1, conv_width=32, norm="bn")
        config = replace(config, box=box, mask=replace(config.mask, norm="bn"))
    config = replace(
        config, box=replace(config.box, sampling=replace(config.box.sampling, batch_size=200, positive_fraction=1.0))
    )
    images = random_images([(96, 128)], seed=1)
    answers = []
    for places in (3, 70):  # ground-truth objects; with the 12 proposals they are the regions
        targets = random_targets([(96, 128)], [3], num_classes=3, capacity=3, seed=2)
        targets = targets._map(lambda value: F.pad(value, (0, 0) * (value.ndim - 2) + (0, places - 3)))  # noqa: B023
        torch.manual_seed(0)
        detector = build_detector(config).train()
        losses = detector(images, targets, torch.tensor(0))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
        answers.append((losses, gradients, dict(detector.named_buffers())))
    assert any("box_head" in name and "running_mean" in name for name in answers[0][2])
    for few, many in zip(*answers, strict=True):
        assert set(few) == set(many)
        for key, value in few.items():
            torch.testing.assert_close(
                many[key], value, atol=1e-4, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
            )


def synchronized(processes: Processes, batch: Tensor, real: Tensor, push: Tensor) -> dict[str, Tensor]:
    """The output, the gradient and the statistics of this process, which has half of the regions."""
    norm, own = SyncBatchNorm2d(4), slice(5 * processes.rank, 5 * processes.rank + 5)
    x = batch[own].clone().requires_grad_()
    y = masked_batch_norm(norm, x, real[own])
    (y * push[own] * real[own][:, None, None, None]).sum().backward()
    return {"y": y.detach(), "x": present(x.grad), **norm.state_dict()}


def test_two_processes_share_the_statistics_of_valid_regions(tmp_path: Path) -> None:
    torch.manual_seed(1)
    batch, push = 5 * torch.randn(10, 4, 3, 3) + 2, torch.randn(10, 4, 3, 3)
    real = torch.tensor([1, 1, 0, 1, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    found = in_processes(2, tmp_path, partial(synchronized, batch=batch, real=real, push=push))
    norm, x = nn.BatchNorm2d(4), batch[real].requires_grad_()
    expected = norm(x)
    (expected * push[real]).sum().backward()
    torch.testing.assert_close(torch.cat([part["y"] for part in found])[real], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part["x"] for part in found])[real], x.grad, atol=1e-4, rtol=1e-4)
    for part in found:
        torch.testing.assert_close(part["running_mean"], norm.running_mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(part["running_var"], norm.running_var, atol=1e-4, rtol=1e-4)
