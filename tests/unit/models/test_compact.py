"""What training from scratch needs: norms in the pyramid, which prediction folds away, and AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rcnn.models import build_detector, model_config
from rcnn.models.config import FPNConfig
from rcnn.models.fpn import FPN
from rcnn.models.inference import prepare_for_inference
from rcnn.structures import ImageBatch
from rcnn.training.settings import TrainConfig
from rcnn.training.state import build_optimizer
from tests.narrow import present


def test_a_norm_in_the_pyramid_normalises_each_map() -> None:
    torch.manual_seed(0)
    fpn = FPN(in_channels={"c2": 4, "c3": 6}, config=FPNConfig(channels=8, norm="bn")).train()
    maps = fpn({"c2": 50 * torch.randn(2, 4, 16, 16) + 9, "c3": torch.randn(2, 6, 8, 8)})
    for name in ("p2", "p3"):
        torch.testing.assert_close(maps[name].mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(maps[name].var((0, 2, 3), unbiased=False), torch.ones(8), atol=1e-3, rtol=0)


def test_a_pyramid_has_no_norm_by_default() -> None:
    fpn = FPN(in_channels={"c2": 4}, config=FPNConfig(channels=8))
    assert set(fpn.state_dict()) == {f"{name}2.{part}" for name in ("lateral", "output") for part in ("weight", "bias")}


@torch.no_grad()
def test_folded_norms_give_the_same_features() -> None:
    torch.manual_seed(0)
    detector = build_detector(model_config("mask_rcnn_compact"))
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            present(module.running_mean).normal_(0, 0.3)
            present(module.running_var).uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    detector.eval()
    images = ImageBatch(
        pixels=torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8), sizes=torch.tensor([[64, 96], [60, 90]])
    )
    folded = prepare_for_inference(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    mine, theirs = folded.features(images), detector.features(images)
    for name, expected in theirs.items():
        torch.testing.assert_close(mine[name], expected, atol=1e-4, rtol=1e-4)


def test_adamw_decouples_weight_decay_from_the_step() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)
    settings = TrainConfig(optimizer="adamw", lr=0.1, weight_decay=0.5, norm_weight_decay=0.0)
    optimizer = build_optimizer(nn.Sequential(conv, norm), settings)
    with torch.no_grad():
        conv.weight.fill_(2.0)
    conv.weight.grad = torch.full_like(conv.weight, 3.0)
    norm.weight.grad = torch.full_like(norm.weight, -7.0)
    optimizer.step()
    # the first step is the rate against the gradient's sign, whatever its size (Kingma and Ba 2015, algorithm 1)
    assert conv.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)
    assert norm.weight.item() == pytest.approx(1.0 + 0.1, abs=1e-6)
