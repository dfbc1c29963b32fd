"""ResNet and its variants against torchvision's layers with the same weights, and against slow formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from rcnn.models import build_detector, model_config
from rcnn.models.backbones.resnet import Bottleneck, ResNet, build_stage
from rcnn.models.config import FPNConfig, Norm, ResNetConfig
from rcnn.models.fpn import FPN
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.layers import Conv2d
from rcnn.models.overrides import override
from rcnn.models.zoo.norms import with_norm
from rcnn.training.settings import TrainConfig
from rcnn.training.state import build_optimizer
from tests.compiled import BACKWARD
from tests.narrow import instance, present
from tests.unit.models.test_layers import disturbed
from tests.unit.random_batches import random_images, random_targets

TINY = ResNetConfig(blocks=(1, 1, 1, 1), frozen_stages=0)
PARTS = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm", "bn": "conv{}.norm", "conv": "conv{}"}


def resnet_name(name: str) -> str:
    """torchvision's name of a ResNet's tensor in ours."""
    stage, _, rest = name.partition(".")
    if not stage.startswith("layer"):
        return "stem." + {"conv1": "conv1.", "bn1": "conv1.norm."}[stage] + rest
    block, part, tail = rest.split(".", 2) if "downsample" not in rest else (*rest.split(".downsample."), "")
    if tail:
        place = PARTS[part[:-1]].format(part[-1])
        return f"res{int(stage[5:]) + 1}.{block}.{place}.{tail}"
    index, tail = part.split(".")
    return f"res{int(stage[5:]) + 1}.{block}.{PARTS[f'downsample.{index}']}.{tail}"


def filled(mine: nn.Module, theirs: nn.Module) -> None:
    """Random weights in torchvision's network, and the same in ours."""
    disturbed(theirs, seed=3)
    for name, value in theirs.named_parameters():
        if name.endswith("bn3.weight"):
            value.data.mul_(0.2)  # else sums of many blocks grow until float32 has no digits to compare
    mine.load_state_dict({resnet_name(n): v for n, v in theirs.state_dict().items() if not n.startswith("fc")})


def stages(network: torchvision.models.ResNet, x: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    found = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        found.append(x)
    return found


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (torchvision.models.resnet50, ResNetConfig()),
        (torchvision.models.resnext101_32x8d, ResNetConfig(depth=101, groups=32, width_per_group=8)),
        (torchvision.models.resnet152, ResNetConfig(depth=152)),
    ],
    ids=["resnet50", "resnext101_32x8d", "resnet152"],
)
@torch.no_grad()
def test_stages_equal_torchvisions(build: Callable[..., torchvision.models.ResNet], config: ResNetConfig) -> None:
    torch.manual_seed(0)
    theirs = build(weights=None).eval()
    mine = ResNet(replace(config, norm="bn")).eval()
    filled(mine, theirs)
    x = torch.randn(1, 3, 50, 70)
    for found, expected in zip(mine(x).values(), stages(theirs, x), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_training_equals_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1]).train()
    mine = ResNet(replace(TINY, blocks=(2, 1, 1, 1), norm="bn")).train()
    filled(mine, theirs)
    x = torch.randn(2, 3, 64, 64)
    mine(x)["c5"].square().mean().backward()
    stages(theirs, x)[-1].square().mean().backward()
    gradients = {name: present(p.grad) for name, p in mine.named_parameters()}
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            torch.testing.assert_close(gradients[resnet_name(name)] / scale, parameter.grad / scale, atol=1e-3, rtol=0)
            compared += 1
    assert compared == len(gradients)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(mine.state_dict()[resnet_name(name)], value)


@torch.no_grad()
def test_a_dilated_last_stage_equals_torchvisions_except_for_its_first_block() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 3], replace_stride_with_dilation=[False, False, True]
    ).eval()
    # torchvision begins to dilate in the second block; Detectron2's DC5 and FCIS in the first
    block = instance(theirs.layer4[0], torchvision.models.resnet.Bottleneck)
    block.conv2.dilation = block.conv2.padding = (2, 2)
    mine = ResNet(replace(TINY, blocks=(1, 1, 1, 3), norm="bn", res5_dilation=2)).eval()
    filled(mine, theirs)
    x = torch.randn(1, 3, 70, 50)
    found, expected = mine(x), stages(theirs, x)
    assert mine.strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 16}
    assert found["c5"].shape[2:] == found["c4"].shape[2:]
    torch.testing.assert_close(found["c5"], expected[-1], atol=1e-4, rtol=1e-4)


def test_a_dilated_last_stage_is_one_map_without_a_pyramid() -> None:
    config = model_config("mask_rcnn_r50_dc5")
    backbone = replace(TINY, res5_dilation=2)
    detector = build_detector(replace(config, backbone=backbone, box=replace(config.box, fc_width=8)))
    assert (
        detector.rpn.anchors.strides
        == instance(detector.box_head, BoxHead).pooler.strides
        == instance(detector.mask_head, MaskHead).pooler.strides
        == {"c5": 16}
    )
    for unusable in (replace(TINY, res5_dilation=2), replace(TINY, res5_stride=1)):
        with pytest.raises(ValueError, match="res5 has the stride of res4"):
            build_detector(replace(model_config("faster_rcnn_r50_fpn"), backbone=unusable))


@torch.no_grad()
def test_res5_of_stride_1_keeps_crops_of_7() -> None:
    stage = build_stage(5, replace(TINY, res5_stride=1))
    assert stage(torch.randn(2, 1024, 7, 7)).shape == (2, 2048, 7, 7)
    assert build_stage(5, TINY)(torch.randn(2, 1024, 14, 14)).shape == (2, 2048, 7, 7)


@pytest.mark.parametrize("size", range(5, 40))
def test_the_stem_pools_as_each_system_does(size: int) -> None:
    """Sizes by Chainer's cover_all formula and caffe's; values by sliding a window in plain Python."""
    after = (size + 1) // 2  # the 7x7 convolution of stride 2
    sides = {
        replace(TINY, stages=(2,), stem_pool="padded"): (after + 2 - 3) // 2 + 1,
        replace(TINY, stages=(2,), stem_pool="padded_ceil"): (after + 2 - 3 + 2 - 1) // 2 + 1,
        replace(TINY, stages=(2,), stem_pool="unpadded_ceil"): -(-(after - 3) // 2) + 1,
    }
    for config, side in sides.items():
        stem = ResNet(config).stem
        x = torch.randn(1, 3, size, size)
        found, conv = stem(x), stem.conv1(x)
        assert found.shape[-1] == side
        start = 0 if config.stem_pool == "unpadded_ceil" else -1
        for place in range(side):
            first = 2 * place + start
            window = conv[0, :, max(first, 0) : first + 3, max(first, 0) : first + 3]
            assert torch.equal(found[0, :, place, place], window.amax((1, 2)))


@pytest.mark.parametrize("padding", ["align", "tensorflow"])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
@torch.no_grad()
def test_the_backbone_equals_tensorpacks_formulas(padding: Literal["align", "tensorflow"], stride_in_1x1: bool) -> None:
    torch.manual_seed(0)
    config = replace(TINY, norm="none", padding=padding, stride_in_1x1=stride_in_1x1, stages=(2, 3, 4))
    network = ResNet(config)
    for module in network.modules():
        if isinstance(module, Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def pad(x: Tensor, before: int, after: int) -> Tensor:
        before, after = (before, after) if padding == "tensorflow" else (after, before)
        return F.pad(x, (before, after, before, after))

    def conv(layer: Conv2d, x: Tensor, stride: int = 1, around: int = 0) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, stride, around)

    def block(x: Tensor, layers: Bottleneck, stride: int) -> Tensor:
        cut = x[:, :, :-1, :-1] if stride == 2 else x
        shortcut = conv(present(layers.shortcut), cut, stride)
        if stride_in_1x1:
            y = conv(layers.conv2, conv(layers.conv1, cut, stride).relu(), around=1)
        elif stride == 2:
            y = conv(layers.conv2, pad(conv(layers.conv1, x).relu(), 0, 1), 2)
        else:
            y = conv(layers.conv2, conv(layers.conv1, x).relu(), around=1)
        return (conv(layers.conv3, y.relu()) + shortcut).relu()

    x = torch.randn(1, 3, 101, 139)
    found = network(x)
    y = F.max_pool2d(pad(conv(network.stem.conv1, pad(x, 2, 3), 2).relu(), 0, 1), 3, 2)
    for name, stride in (("res2", 1), ("res3", 2), ("res4", 2)):
        y = block(y, getattr(network, name)[0], stride)
        torch.testing.assert_close(found[name.replace("res", "c")], y, atol=1e-4, rtol=1e-4)
    assert found["c4"].shape[2:] == (6, 8)  # facts of the running program: floor(101 / 16), floor(139 / 16)


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "sync_bn", "gn"])
@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(frozen: int, norm: Norm) -> None:
    torch.manual_seed(0)
    network = ResNet(replace(TINY, frozen_stages=frozen, norm=norm)).eval().train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    total = torch.stack([value.mean() for value in network(torch.randn(2, 3, 64, 64)).values()]).sum()
    if frozen < 5:
        total.backward()
    parts = ["stem", "res2", "res3", "res4", "res5"]
    for name, parameter in network.named_parameters():
        trained = parts.index(name.split(".")[0]) >= frozen
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None) == trained
    for name, value in network.named_buffers():
        moves = norm in {"bn", "sync_bn"} and parts.index(name.split(".")[0]) >= frozen
        assert torch.equal(value, before[name]) != moves, name


def test_names_do_not_depend_on_what_is_frozen() -> None:
    for norm in ("bn", "frozen_bn", "gn"):
        states = [set(ResNet(replace(TINY, norm=norm, frozen_stages=n)).state_dict()) for n in (0, 5)]
        assert states[0] == states[1]
        assert "res3.0.conv2.norm.weight" in states[0]


@pytest.mark.parametrize("norm", ["bn", "sync_bn", "gn"])
def test_a_network_from_scratch_starts_with_identity_blocks(norm: Norm) -> None:
    torch.manual_seed(0)
    network = ResNet(replace(TINY, blocks=(2, 1, 1, 1), norm=norm))
    for name, value in network.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(value, torch.full_like(value, float("conv3" not in name))), name
        elif name.endswith("norm.bias"):
            assert not value.any()
        else:
            fan_out = value.shape[0] * value[0, 0].numel()
            assert float(value.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
    x = torch.rand(1, 256, 8, 8)
    torch.testing.assert_close(network.get_submodule("res2.1")(x), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("blocks=[3,4]", "four numbers"),
        ("stages=[3,4]", "expected \\(2, 3, 4, 5\\)"),
        ("frozen_stages=6", "0 \\(none\\) to 5"),
        ("trained_affine=true norm=gn", "is for norm=frozen_bn only"),
        ("padding=align stem_pool=padded_ceil", "set one of the two"),
    ],
)
def test_invalid_settings_are_refused(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(TINY, change.split())


@pytest.mark.parametrize("norm", ["gn", "bn", "sync_bn", "none"])
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (4, 5), (3, 4, 5)])
@torch.no_grad()
def test_a_pyramid_of_any_levels_equals_torchvisions(norm: Norm, levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = {f"c{n}": 8 * n for n in levels}
    layers: dict[Norm, Callable[[int], nn.Module] | None] = {
        "gn": partial(nn.GroupNorm, 32),
        "bn": nn.BatchNorm2d,
        "sync_bn": nn.BatchNorm2d,
        "none": None,
    }
    theirs = torchvision.ops.FeaturePyramidNetwork(
        list(channels.values()), 64, extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelMaxPool(),
        norm_layer=layers[norm],
    )  # fmt: skip
    mine = FPN(in_channels=channels, config=FPNConfig(channels=64, norm=norm))
    disturbed(theirs)
    blocks = {"inner_blocks": "lateral", "layer_blocks": "output"}
    state = {}
    for name, value in theirs.state_dict().items():
        kind, index, inner, tail = name.split(".", 3)
        state[f"{blocks[kind]}{levels[int(index)]}.{'norm.' if inner == '1' else ''}{tail}"] = value
    mine.load_state_dict(state)
    features = {
        name: torch.randn(2, width, 64 >> n, 96 >> n) for n, (name, width) in zip(levels, channels.items(), strict=True)
    }
    mine.eval(), theirs.eval()
    found, expected = mine(features), theirs(features)
    assert list(found) == [f"p{n}" for n in (*levels, levels[-1] + 1)]
    for mine_map, their_map in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(mine_map, their_map, atol=1e-5, rtol=1e-5)


def test_a_pyramid_can_have_biases_and_norms() -> None:
    fpn = FPN(in_channels={"c4": 8, "c5": 8}, config=FPNConfig(channels=32, norm="gn", conv_bias=True))
    parts = {name.split(".", 1)[1] for name in fpn.state_dict()}
    assert parts == {"weight", "bias", "norm.weight", "norm.bias"}


@pytest.mark.compile
@pytest.mark.parametrize("norm", ["bn", "sync_bn", "gn", "frozen_bn"])
def test_one_graph_and_its_gradients(norm: Norm) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = replace(
        TINY, norm=norm, trained_affine=norm == "frozen_bn", frozen_stages=1, padding="align", stages=(2, 3)
    )  # the later stages have the same blocks
    network = disturbed(ResNet(config)).train()
    x = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(network, fullgraph=True, backend=BACKWARD)
    results = []
    for run in (network, compiled):
        network.zero_grad()
        maps = run(x)
        maps["c3"].square().mean().backward()
        results.append(
            (
                maps["c3"].detach(),
                {n: present(p.grad).clone() for n, p in network.named_parameters() if p.requires_grad},
            )
        )
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-4, rtol=1e-4)
    assert results[0][1]
    for name, expected in results[0][1].items():
        scale = expected.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(results[1][1][name] / scale, expected / scale, atol=1e-3, rtol=0)


def test_trained_scales_decay_as_norms_do() -> None:
    network = ResNet(replace(TINY, trained_affine=True, stages=(2,)))
    groups = build_optimizer(network, TrainConfig(weight_decay=0.1, norm_weight_decay=0.0)).param_groups
    norms = {id(p) for n, p in network.named_parameters() if ".norm." in n}
    assert norms
    for group in groups:
        assert all((id(p) in norms) == (group["weight_decay"] == 0) for p in group["params"])


@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_from_scratch_it_overfits_two_images(norm: Norm) -> None:
    """The network of `mask_rcnn_r50_fpn_gn_scratch` with one block per stage, from random weights."""
    torch.manual_seed(0)
    config = with_norm(model_config("mask_rcnn_r50_fpn"), norm, "tiny", frozen_stages=0)
    config = replace(
        config,
        num_classes=2,
        backbone=replace(instance(config.backbone, ResNetConfig), blocks=(1, 1, 1, 1)),
        fpn=replace(present(config.fpn), channels=32),
        rpn=replace(
            config.rpn,
            proposals=replace(config.rpn.proposals, pre_nms_train=50, post_nms_train=20),
            sampling=replace(config.rpn.sampling, batch_size=32),
        ),
        box=replace(config.box, fc_width=32, conv_width=32, sampling=replace(config.box.sampling, batch_size=16)),
        mask=replace(present(config.mask), width=32, convs=1),
    )
    detector = build_detector(config).train()
    sizes = [(64, 96), (96, 64)]
    images, targets = random_images(sizes, seed=1), random_targets(sizes, [2, 2], num_classes=2, seed=2)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(16):
        total = torch.stack(list(detector(images, targets, torch.tensor(1)).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[0] < 10, totals  # no sum of blocks has blown up
    assert min(totals[-4:]) < 0.75 * totals[0], totals  # which goes up where the RPN's proposals change
