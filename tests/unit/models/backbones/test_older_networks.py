"""VGG-16 and MobileNet v1 as backbones: torchvision's VGG, frozen parts, and losses that reach the others.

tests/unit/weights/test_mask_faster_rcnn.py compares whole detectors.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from rcnn.models import build_detector, model_config
from rcnn.models.backbones.mobilenet_v1 import MobileNetV1
from rcnn.models.backbones.vgg import VGG16
from rcnn.models.config import BackboneConfig, MobileNetV1Config, PoolerConfig, VGGConfig
from rcnn.models.overrides import override
from tests.narrow import instance
from tests.unit.random_batches import random_images, random_targets


def test_vgg_equals_torchvision() -> None:
    layers = instance(torchvision.models.vgg16(weights=None).features, nn.Sequential)
    mine, theirs = VGG16(VGGConfig()).eval(), layers[:30].eval()
    mine.features.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 70, 101)
    [(name, found)] = mine(x).items()
    assert name == "c4"
    assert found.shape == (1, mine.channels["c4"], 4, 6)
    torch.testing.assert_close(found, theirs(x))


@pytest.mark.parametrize(("frozen", "layers"), [(0, 0), (2, 4), (5, 13)])
def test_frozen_stages_of_vgg(frozen: int, layers: int) -> None:
    trained = [parameter.requires_grad for parameter in VGG16(VGGConfig(frozen_stages=frozen)).parameters()]
    assert trained == [False] * 2 * layers + [True] * 2 * (13 - layers)


def test_frozen_layers_of_mobilenet() -> None:
    network = MobileNetV1(MobileNetV1Config(width=0.25, frozen_layers=3)).train()
    trained = {name.split(".")[1] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {str(number) for number in range(3, 12)}
    assert network(torch.randn(1, 3, 64, 97))["c4"].shape == (1, network.channels["c4"], 4, 7)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"frozen_stages is 6; expected 0 \(none\) to 5 \(all\)"):
        VGGConfig(frozen_stages=6)
    with pytest.raises(ValueError, match=r"frozen_layers is 13; expected 0 \(none\) to 12 \(all\)"):
        MobileNetV1Config(frozen_layers=13)
    with pytest.raises(
        ValueError, match=r"max_pool is for the kinds affine and image_affine only; the kind is roi_align"
    ):
        PoolerConfig(size=7, max_pool=True)


@pytest.mark.parametrize("backbone", [VGGConfig(), MobileNetV1Config(width=0.25)])
def test_losses_reach_every_trained_weight(backbone: BackboneConfig) -> None:
    torch.manual_seed(0)
    config = override(model_config("faster_rcnn_r50_c4"), ["num_classes=3", "box.fc_width=32", "rpn.width=32"])
    trunk = "fc" if backbone.kind == "vgg16" else "mobilenet_v1"
    pooler = PoolerConfig(kind="affine", size=7, aligned=False, max_pool=True)
    detector = build_detector(replace(config, backbone=backbone, box=replace(config.box, trunk=trunk, pooler=pooler)))
    sizes = [(96, 128)]
    losses = detector.train().losses(random_images(sizes), random_targets(sizes, [3], num_classes=3), 0)
    sum(losses.values(), torch.zeros(())).backward()
    without = [name for name, one in detector.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []
    assert all(loss.isfinite() for loss in losses.values())
