"""MobileNetV3 under a pyramid: torchvision's own detector with the same weights gives the same maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.backbone_utils import _mobilenet_extractor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from rcnn.models import build_detector, model_config
from rcnn.models.backbones.mobilenet import MobileNet
from rcnn.models.config import MobileNetConfig
from rcnn.models.heads.box import BoxHead
from tests.narrow import instance, present
from tests.unit.models.test_layers import disturbed


def our_name(name: str) -> str:
    part, _, rest = name.removeprefix("backbone.").partition(".")
    if part == "body":
        return f"backbone.features.{rest}"
    kind, level, _, tail = rest.split(".")
    return f"fpn.{'lateral' if kind == 'inner_blocks' else 'output'}{4 + int(level)}.{tail}"


@torch.no_grad()
def test_maps_are_torchvisions_and_so_is_the_level_that_regions_come_from() -> None:
    torch.manual_seed(0)
    theirs = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).eval()
    disturbed(theirs.backbone, seed=1)
    config = model_config("faster_rcnn_mobilenet_v3_large_fpn")
    backbone = instance(config.backbone, MobileNetConfig)
    mine = build_detector(replace(config, backbone=replace(backbone, norm="bn"))).eval()
    state = {our_name(n): v for n, v in theirs.state_dict().items() if n.startswith("backbone.")}
    assert set(state) == {n for n in mine.state_dict() if n.startswith(("backbone.", "fpn."))}
    mine.load_state_dict(state, strict=False)
    x = torch.randn(2, 3, 96, 160)
    expected = theirs.backbone(x)
    found = present(mine.fpn)(mine.backbone(x))
    assert list(found) == ["p4", "p5", "p6"]
    for (name, value), other in zip(found.items(), expected.values(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-4, msg=name)
    # torchvision takes both maps of stride 32 for the same level, whose first it reads, whatever a region's size
    pool = instance(instance(theirs.roi_heads, RoIHeads).box_roi_pool, MultiScaleRoIAlign)
    pool(expected, [torch.tensor([[0.0, 0, 90, 90]])] * 2, [(96, 160)] * 2)
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 2000, 2000]])
    assert present(pool.map_levels)([boxes]).tolist() == [0, 0]
    assert pool.scales == [1 / 32, 1 / 32]
    assert instance(mine.box_head, BoxHead).pooler.strides == {"p4": 32}
    assert mine.rpn.anchors.strides == {"p4": 32, "p5": 32, "p6": 64}


@pytest.mark.parametrize("frozen", range(7))
def test_what_is_frozen_is_what_torchvision_freezes(frozen: int) -> None:
    theirs = _mobilenet_extractor(mobilenet_v3_large(weights=None), True, 6 - frozen)
    expected = {n.removeprefix("body.") for n, p in theirs.named_parameters() if not p.requires_grad}
    mine = MobileNet(MobileNetConfig(norm="bn", frozen_stages=frozen)).train()
    assert {n.removeprefix("features.") for n, p in mine.named_parameters() if not p.requires_grad} == expected
    before = {n: v.clone() for n, v in mine.named_buffers() if "running" in n}
    mine(torch.randn(2, 3, 64, 64))
    for name, value in mine.named_buffers():
        if name in before:
            still = name.removeprefix("features.").rpartition(".")[0] + ".weight" in expected
            assert torch.equal(value, before[name]) == still, name


def test_more_stages_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match=r"0 \(none\) to 6"):
        MobileNetConfig(frozen_stages=7)
