"""Learning rate and weight decay of each parameter, compared with a loop and with the published layer-wise factors."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from rcnn.training.parameter_groups import describe_groups, layer_numbers, parameter_groups
from rcnn.training.settings import TrainConfig


def small() -> nn.ModuleDict:
    """A backbone with a norm, and two heads."""
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            "box_head": nn.Linear(4, 2),
            "mask_head": nn.Linear(4, 2),
        }
    )


def of_each(module: nn.Module, settings: TrainConfig) -> dict[str, tuple[float, float]]:
    """(factor of the learning rate, weight decay) of each parameter."""
    groups = parameter_groups(module, settings)
    found = {name: (group.lr_factor, group.weight_decay) for group in groups for name in group.names}
    assert sum(len(group.names) for group in groups) == len(found)
    return found


def test_patterns_by_hand() -> None:
    settings = TrainConfig(
        weight_decay=0.5,
        norm_weight_decay=0.25,
        backbone_lr=0.1,
        lr_factors={"*": 0.5, "*.bias": 2, "mask_head.*": 1},
        weight_decays={"*.bias": 0, "mask_head.bias": 0.125},
    )
    found = of_each(small(), settings)
    assert found == {
        "backbone.0.weight": (0.05, 0.5),
        "backbone.0.bias": (0.2, 0),
        "backbone.1.weight": (0.05, 0.25),
        "backbone.1.bias": (0.2, 0),
        "box_head.weight": (0.5, 0.5),
        "box_head.bias": (2, 0),
        "mask_head.weight": (1, 0.5),
        "mask_head.bias": (1, 0.125),
    }


def test_groups_with_the_same_values_are_one_line() -> None:
    """The backbone has an optimizer group of its own, also where it has the values of the heads."""
    settings = TrainConfig(weight_decay=0.5, norm_weight_decay=0, lr_factors={"box_head.bias": 3})
    groups = parameter_groups(small(), settings)
    assert list(describe_groups(groups)) == [
        "learning rate x 1, weight decay 0.5: 5 tensors (box_head.weight, ...)",
        "learning rate x 3, weight decay 0.5: 1 tensor (box_head.bias)",
        "learning rate x 1, weight decay 0: 2 tensors (backbone.1.weight, ...)",
    ]
    assert len(groups) == 4


def test_a_pattern_without_a_parameter_is_refused_with_names_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no parameter of the model matches 'mask_heads\.\*'.*mask_head\.(bias|wei)"):
        parameter_groups(small(), TrainConfig(lr_factors={"mask_heads.*": 2}))


@pytest.mark.parametrize("value", ["a", -1, True, float("nan")])
def test_a_factor_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"train\.lr_factors: \*\.bias is .*; expected a number of 0 or more"):
        TrainConfig(lr_factors={"*.bias": value})  # type: ignore[dict-item]


def vitdet_factor(name: str, decay: float, depth: int) -> float:
    """Detectron2's rule for ViTDet: patches and positions are layer 0, block i is i + 1, the rest is `depth` + 1."""
    layer = depth + 1
    if ".positions" in name or ".patches" in name or ".first_norm" in name:
        layer = 0
    elif found := re.search(r"\.blocks\.(\d+)\.", name):
        layer = int(found[1]) + 1
    return decay ** (depth + 1 - layer)


def named(*names: str) -> nn.Module:
    """Parameters with these dotted names."""
    root = nn.Module()
    for name in names:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, nn.Parameter(torch.zeros(1)))
    return root


def test_layers_of_vit() -> None:
    names = ["backbone.positions", "backbone.patches.weight", *(f"backbone.blocks.{n}.mlp.weight" for n in range(12))]
    names += ["backbone.pyramid.p2.lateral.weight", "box_head.logits.weight"]
    found = of_each(named(*names), TrainConfig(layer_decay=0.7))
    assert {name: factor for name, (factor, _) in found.items()} == pytest.approx(
        {name: vitdet_factor(name, 0.7, 12) for name in names}
    )


def test_layers_of_convnext_tiny() -> None:
    """Six layers after the stem: the first two stages, three of three blocks each, the last stage (Liu et al. 2022)."""
    depths = (3, 3, 9, 3)
    names = ["backbone.net.stem_0.weight", "backbone.net.stages_3.downsample.1.weight", "backbone.norms.c2.weight"]
    names += [f"backbone.net.stages_{s}.blocks.{b}.gamma" for s, depth in enumerate(depths) for b in range(depth)]
    layers = layer_numbers(names)
    assert layers["backbone.net.stem_0.weight"] == 0
    assert layers["backbone.net.stages_3.downsample.1.weight"] == 6
    assert "backbone.norms.c2.weight" not in layers
    blocks = [[layers[f"backbone.net.stages_{s}.blocks.{b}.gamma"] for b in range(d)] for s, d in enumerate(depths)]
    assert blocks == [[1] * 3, [2] * 3, [3, 3, 3, 4, 4, 4, 5, 5, 5], [6] * 3]
    found = of_each(named(*names, "fpn.weight"), TrainConfig(layer_decay=0.5))
    assert found["backbone.net.stem_0.weight"][0] == pytest.approx(0.5**7)
    assert found["fpn.weight"][0] == 1


def test_layer_decay_of_another_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.layer_decay works with ViT and ConvNeXt backbones"):
        parameter_groups(small(), TrainConfig(layer_decay=0.9))
