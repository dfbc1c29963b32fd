"""Networks of timm under a pyramid, and the plain ViT: the same numbers as timm's own code, frozen parts, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.backbones import timm as bridge
from rcnn.models.backbones.backbone import Backbone
from rcnn.models.backbones.vit import Level
from rcnn.models.config import (
    BOX_SAMPLING,
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    MobileNetConfig,
    SelectionConfig,
    TimmConfig,
    ViTConfig,
)
from rcnn.models.inference import Precision, prepare_for_inference
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.checkpoint import load_detector, save_checkpoint
from tests.compiled import BACKWARD
from tests.narrow import instance, present
from tests.unit.random_batches import random_images, random_targets

timm = pytest.importorskip("timm", reason="needs rcnn[timm]")
import tests.tiny_swin  # noqa: E402, F401 (tells timm of small_swin)
from rcnn.models.backbones.timm import TimmNet  # noqa: E402
from rcnn.models.backbones.vit import ViT, attend, resample  # noqa: E402

VIT = ViTConfig(name="test_vit", window=3, global_blocks=2, image_size=96, channels=32, drop_path=0.0)
SWIN = "small_swin"
NETWORKS = ["test_resnet", "test_convnext", "test_mambaout", "test_efficientnet"]
BACKBONES = [
    TimmConfig(name="test_resnet"),
    TimmConfig(name="test_convnext", out_norm=True, drop_path=0.1),
    TimmConfig(name="test_mambaout"),  # channels innermost, as Swin's
    VIT,
    MobileNetConfig(norm="bn"),
]


def tiny(backbone: TimmConfig | ViTConfig | MobileNetConfig) -> DetectorConfig:
    """A small Mask R-CNN on `backbone`."""
    config = model_config("mask_rcnn_compact")
    sizes = config.rpn.anchors.sizes
    if isinstance(backbone, MobileNetConfig):
        sizes = ((16.0, 32.0),) * 3
    return replace(
        config,
        num_classes=2,
        backbone=backbone,
        fpn=None if isinstance(backbone, ViTConfig) else FPNConfig(channels=32),
        rpn=replace(
            config.rpn,
            anchors=replace(config.rpn.anchors, sizes=sizes),
            proposals=replace(config.rpn.proposals, pre_nms_train=50, pre_nms=50, post_nms_train=30, post_nms=20),
        ),
        box=BoxHeadConfig(
            fc_width=64,
            score_threshold=0.0,
            sampling=replace(BOX_SAMPLING, batch_size=32),
            selection=SelectionConfig(max_detections=10),
        ),
        mask=MaskHeadConfig(convs=1, width=16),
    )


def ident(config: object) -> str:
    return str(getattr(config, "name", getattr(config, "kind", config)))


def batch() -> tuple[ImageBatch, Targets]:
    sizes = [(96, 128), (128, 80)]
    return random_images(sizes, seed=1), random_targets(sizes, [3, 2], num_classes=2, seed=2)


@pytest.mark.parametrize("name", [*NETWORKS, SWIN])
@torch.no_grad()
def test_maps_are_timms_own(name: str) -> None:
    torch.manual_seed(0)
    mine = TimmNet(TimmConfig(name=name)).eval()
    sized = {"strict_img_size": False, "always_partition": True} if name == SWIN else {}
    theirs = timm.create_model(name, features_only=True, out_indices=mine.indices.values(), **sized).eval()
    theirs.load_state_dict({n: v for n, v in mine.net.state_dict().items() if n in theirs.state_dict()})
    x = torch.randn(2, 3, 128, 96)
    for (key, found), expected in zip(mine(x).items(), theirs(x), strict=True):
        if name in {SWIN, "test_mambaout"}:
            expected = expected.permute(0, 3, 1, 2)
        assert found.shape == (2, mine.channels[key], 128 // mine.strides[key], 96 // mine.strides[key])
        assert torch.equal(found, expected)


@torch.no_grad()
def test_normed_maps_have_mean_0_and_variance_1_at_each_place() -> None:
    torch.manual_seed(0)
    for feature in TimmNet(TimmConfig(name="test_convnext", out_norm=True))(torch.randn(1, 3, 64, 64)).values():
        torch.testing.assert_close(feature.mean(1), torch.zeros_like(feature[:, 0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(feature.var(1, unbiased=False), torch.ones_like(feature[:, 0]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("stages", range(5))
@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_stages_have_no_gradient(name: str, stages: int) -> None:
    torch.manual_seed(0)
    network = TimmNet(TimmConfig(name=name, frozen_stages=stages)).train()
    before = {n: v.clone() for n, v in network.named_buffers() if "running" in n}
    maps = list(network(torch.randn(2, 3, 64, 64)).values())
    for place, feature in enumerate(maps):
        assert feature.requires_grad == (place >= stages)
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (stages > 0)
    assert (len(frozen) == len(list(network.parameters()))) == (stages == 4)
    for buffer, value in network.named_buffers():
        if buffer in before:
            still = f"{buffer.rpartition('.')[0]}.weight" in frozen
            assert torch.equal(value, before[buffer]) == still, buffer


@torch.no_grad()
def test_frozen_norms_stay_as_they_are_and_everything_else_is_trained() -> None:
    network = TimmNet(TimmConfig(name="test_efficientnet", frozen_norms=True, frozen_stages=1)).train()
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    before = {name: value.clone() for name, value in network.named_buffers()}
    x = torch.randn(2, 3, 64, 64)
    trained, evaluated = network(x), network.eval()(x)
    assert all(torch.equal(trained[name], evaluated[name]) for name in trained)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    free = TimmNet(TimmConfig(name="test_efficientnet", frozen_stages=1))
    expected = {name for name, p in free.named_parameters() if p.requires_grad and ".bn" not in name}
    assert {name for name, p in network.named_parameters() if p.requires_grad} == expected


@torch.no_grad()
def test_a_vit_of_global_blocks_is_timms_without_the_class_token() -> None:
    torch.manual_seed(0)
    config = replace(VIT, window=0)
    mine = ViT(config).eval()
    theirs = timm.create_model("test_vit", img_size=96, num_classes=0).eval()
    state = {n: v for n, v in mine.state_dict().items() if n.startswith("blocks.")}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    theirs.patch_embed.proj.load_state_dict(mine.patches.state_dict())
    x = torch.randn(2, 3, 96, 96)
    tokens = theirs.patch_embed.proj(x).flatten(2).transpose(1, 2) + mine.positions.flatten(2).transpose(1, 2)
    for block in theirs.blocks:
        tokens = block(tokens)
    last = tokens.transpose(1, 2).unflatten(2, (6, 6))
    for name, expected in mine(x).items():
        if name != "p6":
            torch.testing.assert_close(mine.pyramid[name](last), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_timms_without_those_of_the_class_token() -> None:
    torch.manual_seed(0)
    mine = ViT(VIT)
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", img_size=96, num_classes=0, drop_path_rate=0.0)
    assert torch.equal(mine.positions.flatten(2).transpose(1, 2), theirs.pos_embed[:, 1:])
    from timm.layers import resample_abs_pos_embed

    expected = resample_abs_pos_embed(theirs.pos_embed[:, 1:], [9, 5], [6, 6], num_prefix_tokens=0, antialias=False)
    found = resample(mine.positions, (9, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_windows_attend_to_themselves_alone() -> None:
    torch.manual_seed(0)
    attention = ViT(VIT).blocks[0].attn.eval()
    x = torch.randn(2, 7, 5, 64)
    found = attend(attention, x, 3)
    for top in range(0, 7, 3):
        for left in range(0, 5, 3):
            window = torch.zeros(2, 3, 3, 64)
            part = x[:, top : top + 3, left : left + 3]
            window[:, : part.shape[1], : part.shape[2]] = part
            expected = attention(window.flatten(1, 2)).view(2, 3, 3, 64)[:, : part.shape[1], : part.shape[2]]
            torch.testing.assert_close(found[:, top : top + 3, left : left + 3], expected, atol=1e-5, rtol=1e-5)
    assert torch.allclose(attend(attention, x, 0).flatten(1, 2), attention(x.flatten(1, 2)), atol=1e-6)


def test_global_blocks_are_spread_as_vitdets() -> None:
    vit = ViT(ViTConfig(name="vit_tiny_patch16_224", image_size=224))
    assert [number for number, window in enumerate(vit.windows) if window == 0] == [2, 5, 8, 11]
    assert set(vit.windows) == {0, 14}


@torch.no_grad()
def test_the_simple_pyramid_equals_a_slow_formula() -> None:
    """Li et al. 2022, section 3: one map, two, one or no deconvolutions or a pooling, 1x1 and 3x3, each with a norm."""
    torch.manual_seed(0)
    vit = ViT(VIT)

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=1e-6).permute(0, 3, 1, 2)

    x = torch.randn(1, 64, 6, 4)
    first, second = (vit.get_submodule(f"pyramid.p2.resize.{place}") for place in (0, 3))
    bases = {
        "p2": second(F.gelu(norm(first(x)))),
        "p3": vit.get_submodule("pyramid.p3.resize.0")(x),
        "p4": x,
        "p5": F.max_pool2d(x, 2),
    }
    assert [tuple(base.shape[1:]) for base in bases.values()] == [(16, 24, 16), (32, 12, 8), (64, 6, 4), (64, 3, 2)]
    for name, base in bases.items():
        level = instance(vit.pyramid[name], Level)
        assert level.lateral.bias is None
        expected = norm(F.conv2d(norm(F.conv2d(base, level.lateral.weight)), level.output.weight, padding=1))
        torch.testing.assert_close(level(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES, ids=ident)
def test_a_detector_overfits_two_images(backbone: TimmConfig | ViTConfig | MobileNetConfig) -> None:
    torch.manual_seed(0)
    detector = build_detector(tiny(backbone)).train()
    images, targets = batch()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4)
    totals = []
    for _ in range(20):
        losses = detector(images, targets, torch.tensor(1))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        missing = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing  # DistributedDataParallel would wait for them
        optimizer.step()
        totals.append(total.item())
    assert all(torch.tensor(totals).isfinite())
    assert min(totals[-4:]) < 0.75 * totals[0], totals  # which goes up where the RPN's proposals change
    found = detector.eval().predict(images)
    assert int(found.valid.sum()) > 0


@pytest.mark.compile
@pytest.mark.parametrize("backbone", BACKBONES, ids=ident)
def test_one_graph_and_its_gradients(backbone: TimmConfig | ViTConfig | MobileNetConfig) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    detector = build_detector(tiny(backbone)).eval()  # in training drop_path is random
    images, _ = batch()
    compiled = torch.compile(detector.features, fullgraph=True, backend=BACKWARD)
    results = []
    for run in (detector.features, compiled):
        detector.zero_grad()
        maps = run(images)
        pushes = [torch.linspace(-1, 1, value.numel()).view_as(value).cos() for value in maps.values()]
        torch.stack([(value * push).sum() for value, push in zip(maps.values(), pushes, strict=True)]).sum().backward()
        gradients = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
        results.append(({name: value.detach() for name, value in maps.items()}, gradients))
    (expected, wanted_gradients), (found, gradients) = results
    assert set(gradients) == set(wanted_gradients) != set()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)
    for name, value in wanted_gradients.items():
        scale = value.abs().max().clamp(min=1e-5)
        torch.testing.assert_close(gradients[name] / scale, value / scale, atol=2e-3, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES, ids=ident)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@torch.no_grad()
def test_prepared_for_inference_it_gives_the_same_maps(
    backbone: TimmConfig | ViTConfig | MobileNetConfig, precision: Precision
) -> None:
    torch.manual_seed(0)
    detector = build_detector(tiny(backbone)).eval()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            present(module.running_mean).normal_(0, 0.1)
            present(module.running_var).uniform_(0.5, 1.5)
    images, _ = batch()
    ready = prepare_for_inference(detector, precision)
    for name, expected in detector.features(images).items():
        found = ready.features(images)[name]
        assert found.dtype == getattr(torch, precision)
        error = (found.float() - expected).abs().max() / expected.abs().max()
        assert float(error) < (1e-4 if precision == "float32" else 0.05), name
    assert int(ready.predict(images).valid.sum()) > 0


@pytest.mark.parametrize("backbone", [*BACKBONES, TimmConfig(name=SWIN)], ids=ident)
@torch.no_grad()
def test_a_checkpoint_restores_everything(backbone: TimmConfig | ViTConfig | MobileNetConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = build_detector(tiny(backbone)).eval()
    save_checkpoint(tmp_path / "run", detector, detector.config, ("a", "b"), {})
    again, checkpoint = load_detector(tmp_path / "run")
    assert checkpoint.config == detector.config
    images, _ = batch()
    for name, expected in detector.features(images).items():
        assert torch.equal(again.eval().features(images)[name], expected)


def test_padding_to_whole_patches_is_the_backbones_own() -> None:
    maps = ViT(VIT)(torch.randn(1, 3, 90, 70))
    assert [tuple(value.shape[2:]) for value in maps.values()] == [(24, 20), (12, 10), (6, 5), (3, 2), (2, 1)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TimmConfig(name="resnet5d"), "did you mean resnet50d"),
        (TimmConfig(name="resnet50d.ra_in1k"), r"names weights that timm does not have; .* e.g. resnet50d\.ra2_in1k"),
        (
            TimmConfig(name="resnet50d.typo", pretrained=True),
            r"does not have; expected resnet50d, or with weights, e.g. ",
        ),
        (TimmConfig(name="test_vit"), r"strides \[16, 16, 16\].*backbone.kind=vit"),
        (TimmConfig(name="test_maxvit"), "does not accept images of every size"),
        (TimmConfig(name="vgg11", drop_path=0.1), "set backbone.drop_path=0"),
        (ViTConfig(name="resnet50"), "not a plain ViT"),
        (ViTConfig(name=SWIN), "not a plain ViT"),
        (ViTConfig(name="vit_small_patch14_dinov2"), r"patches of \(14, 14\)"),
        (ViTConfig(name="test_vit", global_blocks=30), "expected 0 to 6, the number of blocks of test_vit"),
        (ViTConfig(name="test_vit", image_size=100), "multiple of 16"),
    ],
)
def test_invalid_settings_are_refused(config: TimmConfig | ViTConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_detector(replace(tiny(VIT), backbone=config))


def test_a_vit_under_a_pyramid_is_refused() -> None:
    with pytest.raises(ValueError, match="builds its own pyramid"):
        build_detector(replace(tiny(VIT), fpn=FPNConfig()))


def test_weights_for_other_pixel_statistics_are_refused() -> None:
    config = replace(tiny(ViTConfig(name="vit_tiny_patch16_224", pretrained=True)))
    with pytest.raises(ValueError, match=r"input.pixel_mean=\[127.5, 127.5, 127.5\]"):
        build_detector(config)


def test_a_checkpoint_does_not_fetch_weights_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = timm.create_model

    def create(name: str, *, pretrained: bool, **options: object) -> nn.Module:
        asked.append(pretrained)
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    config = tiny(TimmConfig(name="test_resnet", pretrained=True))
    pixels = replace(config.input, pixel_mean=(127.5,) * 3, pixel_std=(127.5,) * 3)
    detector = build_detector(replace(config, input=pixels))
    assert set(asked) == {True}
    asked.clear()
    build_detector(detector.config)
    assert set(asked) == {False}


def test_without_timm_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(bridge.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'rcnn\[timm\]'"):
        build_detector(tiny(TimmConfig()))


def test_backbones_have_channels_and_strides() -> None:
    for network in (TimmNet(TimmConfig(name="test_resnet")), ViT(VIT)):
        assert isinstance(network, Backbone)
        assert list(network.channels) == list(network.strides) == list(network(torch.randn(1, 3, 64, 64)))
