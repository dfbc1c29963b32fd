"""ImageNet ResNets: each publisher's file against torchvision's network with that publisher's preprocessing."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from rcnn.models import build_detector, model_config
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.weights import convert as conversion
from rcnn.weights.backbone import adopt_backbone, load_backbone
from rcnn.weights.checkpoint import load_checkpoint, load_detector
from rcnn.weights.convert import ConvertOptions, convert_to_folder
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.known import convert_found
from tests.narrow import instance, present, save_npz
from tests.tiny_data import write_tiny_coco
from tests.unit.training.runs import run

BLOCKS = "backbone.blocks=[1,1,1,1]"  # the smallest ResNet: a file of 30 MB in place of 100


def network(**options: Any) -> ResNet:
    """torchvision's network, with random norms."""
    torch.manual_seed(3)
    net = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=2, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, present(module.running_var)):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, present(module.running_mean)):
                nn.init.normal_(value, std=0.1)
    return net


def as_caffe(net: ResNet, eps: float = 1e-5) -> ResNet:
    """The same weights with Caffe's strides."""
    for layer in (net.layer2, net.layer3, net.layer4):
        block = instance(layer[0], Bottleneck)
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return net


@torch.no_grad()
def features(net: ResNet, pixels: Tensor) -> dict[str, Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
    found = {}
    for stage in (2, 3, 4, 5):
        x = found[f"c{stage}"] = getattr(net, f"layer{stage - 1}")(x)
    return found


def image() -> Tensor:
    return torch.randint(0, 256, (1, 3, 65, 97), generator=torch.Generator().manual_seed(1)).float()


def ours(folder: Path) -> dict[str, Tensor]:
    """Features of the checkpoint's backbone, for RGB pixels in 0..255."""
    checkpoint = load_checkpoint(folder)
    detector = build_detector(checkpoint.config).eval()
    load_backbone(detector, checkpoint, "test")
    order = image() if checkpoint.config.input.channel_order == "rgb" else image().flip(1)
    mean, deviation = (torch.tensor(v)[None, :, None, None] for v in
                       (checkpoint.config.input.pixel_mean, checkpoint.config.input.pixel_std))  # fmt: skip
    with torch.no_grad():
        return detector.backbone((order - mean) / deviation)


def convert(file: Path, folder: Path, *words: str) -> str:
    said: list[str] = []
    convert_to_folder(file, folder, ConvertOptions(overrides=words), said.append)
    return "\n".join(said)


def torch_file(net: ResNet, path: Path) -> None:
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)


def chainer_file(net: ResNet, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {"fc6/W": np.zeros((2, 2048)), "conv1/b": np.full(64, 0.25)}
    for name, module in net.named_modules():
        part = name.replace("layer", "res").replace("downsample.0", "conv4").replace("downsample.1", "bn4").split(".")
        if part[0].startswith("res"):
            part = [f"res{int(part[0][3:]) + 1}", "a", *part[2:]]
        prefix = "/".join(part)
        if isinstance(module, nn.Conv2d):
            arrays[f"{prefix}/W"] = module.weight.detach().numpy()
        elif isinstance(module, nn.BatchNorm2d):
            arrays |= {
                f"{prefix}/gamma": module.weight.detach().numpy(),
                f"{prefix}/beta": module.bias.detach().numpy(),
            }
            arrays |= {
                f"{prefix}/avg_mean": present(module.running_mean).numpy(),
                f"{prefix}/avg_var": present(module.running_var).numpy(),
            }
            arrays[f"{prefix}/N"] = np.array(7)
    arrays["bn1/avg_mean"] = arrays["bn1/avg_mean"] + 0.25  # of which the bias is taken away again
    save_npz(path, arrays)


def msra_file(net: ResNet, path: Path) -> None:
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample.0": "branch1"}
    norms = {"bn1": "branch2a", "bn2": "branch2b", "bn3": "branch2c", "downsample.1": "branch1"}
    blobs = {"conv1_w": net.conv1.weight.detach().numpy(), "conv1_b": np.zeros(64), "fc1000_w": np.zeros((2, 2048))}
    for name, module in net.named_modules():
        stage, _, rest = name.partition(".0.")
        place = f"res{int(stage[5:]) + 1}_0_" if stage.startswith("layer") and rest else ""
        if isinstance(module, nn.Conv2d) and place:
            blobs[f"{place}{branches[rest]}_w"] = module.weight.detach().numpy()
        elif isinstance(module, nn.BatchNorm2d):
            scale = module.weight.detach() / (present(module.running_var) + module.eps).sqrt()
            prefix = f"{place}{norms[rest]}_bn" if place else "res_conv1_bn"
            blobs[f"{prefix}_s"] = scale.numpy()
            blobs[f"{prefix}_b"] = (module.bias.detach() - present(module.running_mean) * scale).numpy()
    path.write_bytes(pickle.dumps(blobs, protocol=2))


MEANS = {"chainer": (103.063, 115.903, 123.152), "msra": (102.9801, 115.9465, 122.7717)}


def test_torchvision(tmp_path: Path) -> None:
    torch_file(network(), tmp_path / "resnet.pth")
    said = convert(tmp_path / "resnet.pth", tmp_path / "backbone")
    assert "pixels: input.channel_order=rgb input.pixel_mean=[123.675" in said
    assert "self-check: read back bit for bit" in said
    mean, deviation = (
        torch.tensor(v)[None, :, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    found = ours(tmp_path / "backbone")
    for name, expected in features(network(), (image() - mean) / deviation).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def detectron2_names(net: ResNet) -> dict[str, Tensor]:
    found = {}
    for name, value in net.state_dict().items():
        if name.startswith("fc") or name.endswith("tracked"):
            continue
        name = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        found[name if name.startswith("res") else f"stem.{name}"] = value
    return found


def test_detectron2s_copy_of_torchvisions_and_tensorpacks_names(tmp_path: Path) -> None:
    named = detectron2_names(network())
    arrays = {name: value.numpy() for name, value in named.items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    assert "channel_order=rgb" in convert(tmp_path / "R-50.pkl", tmp_path / "detectron2")
    state = load_checkpoint(tmp_path / "detectron2").state
    assert all(torch.equal(state[f"backbone.{name}"], value) for name, value in named.items())

    theirs: dict[str, np.ndarray] = {"linear/W": np.zeros((2048, 2)), "learning_rate": np.array(0, np.float32)}
    words = {"norm.weight": "bn/gamma", "norm.bias": "bn/beta", "norm.running_mean": "bn/mean/EMA",
             "norm.running_var": "bn/variance/EMA", "weight": "W"}  # fmt: skip
    for name, value in named.items():
        layer, word = present(re.fullmatch(r"(.+?)\.(norm\.\w+|weight)", name)).groups()
        layer = layer.replace("stem.conv1", "conv0").replace("shortcut", "convshortcut")
        layer = re.sub(r"res(\d)\.(\d)\.", lambda m: f"group{int(m[1]) - 2}/block{m[2]}/", layer)
        array = value.numpy()
        theirs[f"{layer}/{words[word]}:0"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    save_npz(tmp_path / "ImageNet.npz", theirs, compressed=True)
    assert "channel_order=bgr input.pixel_mean=[103.53" in convert(tmp_path / "ImageNet.npz", tmp_path / "tensorpack")
    other = load_checkpoint(tmp_path / "tensorpack")
    assert instance(other.config.backbone, ResNetConfig).padding == "align"
    assert set(other.state) == set(state)
    assert all(torch.equal(other.state[name], value) for name, value in state.items())


def test_norms_without_statistics_are_group_norm(tmp_path: Path) -> None:
    net = network(norm_layer=partial(nn.GroupNorm, 32))
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    torch_file(net, tmp_path / "resnet50_gn.pth")
    assert "group norm: backbone.norm=gn" in convert(tmp_path / "resnet50_gn.pth", tmp_path / "backbone")
    mean, deviation = (
        torch.tensor(v)[None, :, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    found = ours(tmp_path / "backbone")
    for name, expected in features(net, (image() - mean) / deviation).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)

    other = Found(state=detectron2_names(net))
    assert convert_found(other).config == load_checkpoint(tmp_path / "backbone").config
    state = convert_found(other, overrides=["backbone.norm=frozen_bn"]).state
    assert torch.equal(state["backbone.stem.conv1.norm.running_var"], torch.ones(64))
    assert torch.equal(state["backbone.stem.conv1.norm.weight"], instance(net.bn1, nn.GroupNorm).weight)


def test_resnext_is_known_by_its_groups(tmp_path: Path) -> None:
    torch_file(network(groups=32, width_per_group=8), tmp_path / "resnext.pth")
    convert(tmp_path / "resnext.pth", tmp_path / "backbone")
    trunk = load_checkpoint(tmp_path / "backbone").config.backbone
    assert isinstance(trunk, ResNetConfig)
    assert (trunk.groups, trunk.width_per_group) == (32, 8)


@pytest.mark.parametrize(("kind", "write"), [("chainer", chainer_file), ("msra", msra_file)])
def test_caffes_networks(tmp_path: Path, kind: str, write: Callable[[ResNet, Path], None]) -> None:
    net = as_caffe(network(), 2e-5 if kind == "chainer" else 1e-5)
    if kind == "chainer":
        net.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    write(net, tmp_path / "weights.bin")
    said = convert(tmp_path / "weights.bin", tmp_path / "backbone")
    assert "channel_order=bgr" in said
    assert "stride in the 1x1" in said
    pixels = image().flip(1) - torch.tensor(MEANS[kind])[None, :, None, None]
    found = ours(tmp_path / "backbone")
    for name, expected in features(net, pixels).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_caffes_files_with_torchvisions_names_are_known_by_their_first_norm(tmp_path: Path) -> None:
    net = as_caffe(network())
    present(instance(net.bn1, nn.BatchNorm2d).running_var).mul_(58.0**2)  # what pixels of 0 to 255 give, and no others
    torch_file(net, tmp_path / "res101.pth")
    said = convert(tmp_path / "res101.pth", tmp_path / "backbone")
    assert "Caffe's: the first norm's variance is" in said
    assert load_checkpoint(tmp_path / "backbone").config.input.channel_order == "bgr"
    convert(tmp_path / "res101.pth", tmp_path / "corrected", "input.channel_order=rgb", "backbone.stride_in_1x1=false")
    corrected = load_checkpoint(tmp_path / "corrected").config
    assert corrected.input.channel_order == "rgb"


def test_a_missing_tensor_that_is_allowed_is_filled() -> None:
    whole = network().state_dict()
    state = {name: value for name, value in whole.items() if name != "layer4.0.conv3.weight"}
    converted = convert_found(Found(state=state), allow_missing=["backbone.res5.0.conv3.*"])
    filled = conversion._complete(converted)
    assert filled.keys() == convert_found(Found(state=whole)).state.keys()
    assert filled.keys() - converted.state.keys() == {"backbone.res5.0.conv3.weight"}
    assert 0 < float(filled["backbone.res5.0.conv3.weight"].std()) < 0.1


def test_unsupported_backbones_are_refused(tmp_path: Path) -> None:
    state = network().state_dict() | {"layer1.0.se.fc.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "seresnet.pth")
    with pytest.raises(ValueError, match=r"looks like a network of timm, but the file does not contain its name"):
        convert(tmp_path / "seresnet.pth", tmp_path / "backbone")
    torch_file(network(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"has no settings file|which has no classes"):
        convert_to_folder(tmp_path / "resnet.pth", tmp_path / "backbone", ConvertOptions(classes="a"))
    assert not (tmp_path / "backbone").exists()


def test_mobilenet_equals_the_backbone_of_torchvisions_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = mobilenet_v3_large(num_classes=2).state_dict()
    for name, value in published.items():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(value, 0.5, 1.5)
    torch.save(published, tmp_path / "mobilenet_v3_large-8738ca79.pth")
    said = convert(tmp_path / "mobilenet_v3_large-8738ca79.pth", tmp_path / "out")
    assert "an ImageNet MobileNetV3-Large; backbone only" in said
    theirs = mobilenet_v3_large(num_classes=2, norm_layer=FrozenBatchNorm2d).eval()
    theirs.load_state_dict({name: value for name, value in published.items() if "num_batches" not in name})
    statistics = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in statistics)
    found = ours(tmp_path / "out")
    with torch.no_grad():
        for name, last in (("c4", 13), ("c5", 16)):
            expected = theirs.features[: last + 1]((image() - mean) / deviation)
            assert float(expected.abs().max()) > 1e-3
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    checkpoint = load_checkpoint(tmp_path / "out")
    config = model_config("faster_rcnn_mobilenet_v3_large_320_fpn")
    assert adopt_backbone(config, checkpoint, "DIR") == config
    with pytest.raises(ValueError, match="of a ResNet for a ResNet, or of the same network"):
        adopt_backbone(model_config("faster_rcnn_r50_fpn"), checkpoint, "DIR")


@pytest.fixture(scope="module")
def caffe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of MSRA's backbone."""
    folder = tmp_path_factory.mktemp("msra")
    msra_file(network(), folder / "R-50.pkl")
    convert(folder / "R-50.pkl", folder / "backbone")
    return folder / "backbone"


def test_colours_and_strides_come_along_and_contradictions_are_refused(caffe: Path) -> None:
    checkpoint = load_checkpoint(caffe)
    config = override(model_config("mask_rcnn_r50_fpn"), [BLOCKS])
    adopted = adopt_backbone(config, checkpoint, "DIR")
    assert adopted.input == replace(config.input, channel_order="bgr", pixel_mean=MEANS["msra"], pixel_std=(1, 1, 1))
    assert isinstance(adopted.backbone, ResNetConfig)
    assert adopted.backbone.stride_in_1x1
    for word, cure in (
        ("input.channel_order=rgb", "input.channel_order=bgr"),
        ("backbone.stride_in_1x1=false", "backbone.stride_in_1x1=true"),
    ):
        with pytest.raises(ValueError, match=f"{word}, but DIR was trained with .*{cure}"):
            adopt_backbone(override(config, [word]), checkpoint, "DIR", [word])
    with pytest.raises(ValueError, match=r"a different backbone.*add backbone\.blocks=\[1,1,1,1\]"):
        adopt_backbone(model_config("mask_rcnn_r50_fpn"), checkpoint, "DIR")
    with pytest.raises(ValueError, match=r"frozen batch norm, the model group norm.*backbone\.norm=frozen_bn"):
        adopt_backbone(override(config, ["backbone.norm=gn"]), checkpoint, "DIR")
    with pytest.raises(ValueError, match=r"folded into scale and shift.*remove backbone\.norm=bn"):
        adopt_backbone(override(config, ["backbone.norm=bn"]), checkpoint, "DIR")
    with pytest.raises(ValueError, match="of a ResNet for a ResNet"):
        adopt_backbone(model_config("mask_rcnn_compact"), checkpoint, "DIR")


def test_the_last_stage_of_a_c4_detector_comes_from_the_backbone_too(caffe: Path) -> None:
    checkpoint = load_checkpoint(caffe)
    config = adopt_backbone(override(model_config("faster_rcnn_r50_c4"), [BLOCKS, "num_classes=2"]), checkpoint, "DIR")
    detector = build_detector(config)
    line = load_backbone(detector, checkpoint, "DIR")
    assert "new: box_head, rpn" in line
    got = detector.state_dict()["box_head.trunk.res5.0.conv2.weight"]
    assert torch.equal(got, checkpoint.state["backbone.res5.0.conv2.weight"])


def test_training_from_a_backbone(caffe: Path, tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(64, 96))
    words = [BLOCKS, "input.min_size=64", "input.max_size=96", "train.steps=1", "train.batch_size=1"]
    words += [
        "train.workers=0",
        "fpn.channels=16",
        "box.fc_width=16",
        "mask.width=16",
        "rpn.proposals.pre_nms_train=50",
    ]
    said: list[str] = []
    run("mask_rcnn_r50_fpn", data, tmp_path / "run", words, weights=str(caffe), lines=said)
    assert any(line.startswith("backbone: ") and "new: box_head, fpn, mask_head, rpn" in line for line in said)
    detector, checkpoint = load_detector(tmp_path / "run" / "last")
    assert checkpoint.config.input.channel_order == "bgr"
    stem = load_checkpoint(caffe).state["backbone.stem.conv1.weight"]  # which is frozen
    assert torch.equal(detector.state_dict()["backbone.stem.conv1.weight"], stem)
    with pytest.raises(ValueError, match="contains only a backbone: give a model by its name"):
        run(str(caffe), data, tmp_path / "other", [])
    with pytest.raises(
        ValueError, match=r"contains only a backbone, which detects nothing: train from it, `rcnn train"
    ):
        load_detector(caffe)
