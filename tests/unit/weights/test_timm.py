"""Files of timm as backbones to start training from: the same maps as timm's own network, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import build_detector, model_config
from rcnn.models.config import DetectorConfig
from rcnn.models.overrides import override
from rcnn.weights.backbone import adopt_backbone, load_backbone
from rcnn.weights.checkpoint import load_checkpoint
from rcnn.weights.convert import ConvertOptions, convert_to_folder
from rcnn.weights.systems import known

timm = pytest.importorskip("timm", reason="needs rcnn[timm]")


def on(name: str, *words: str) -> DetectorConfig:
    return override(
        model_config("faster_rcnn_compact"), ["num_classes=2", "backbone.kind=timm", f"backbone.name={name}", *words]
    )


def convert(file: Path, folder: Path, settings: str | None = None) -> str:
    lines: list[str] = []
    convert_to_folder(file, folder, ConvertOptions(settings=settings), lines.append)
    return "\n".join(lines)


def network(name: str) -> torch.nn.Module:
    """timm's network with random weights and norms that change what they are given."""
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def maps(net: torch.nn.Module, name: str, image: Tensor) -> list[Tensor]:
    """The maps of timm's own feature network, with the weights of `net`, of strides 4 to 32."""
    features = timm.create_model(name, pretrained=False, features_only=True).eval()
    ours, theirs = dict(features.state_dict()), net.state_dict()
    for key in ours:
        ours[key] = next(theirs[k] for k in theirs if key in (k, k.replace(".", "_", 1), f"model.{k}"))
    features.load_state_dict(ours)
    with torch.no_grad():
        found: list[Tensor] = features(image)
    return found[-4:]


def test_efficientnet_lite0_has_the_names_of_another_package(tmp_path: Path) -> None:
    net = network("tf_efficientnet_lite0")
    other = {"_conv_stem.weight": torch.empty(0)}
    for number, value in enumerate(net.state_dict().values()):
        other["_conv_stem.weight" if number == 0 else f"_blocks.{number}"] = value
    torch.save(other, tmp_path / "efficientnet-lite0-57934424.pth")
    said = convert(tmp_path / "efficientnet-lite0-57934424.pth", tmp_path / "out")
    assert "the network is timm's tf_efficientnet_lite0 (the file name efficientnet-lite0-57934424.pth)" in said
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.kind == "backbone"
    assert checkpoint.config.input.pixel_mean == checkpoint.config.input.pixel_std == (127.5, 127.5, 127.5)
    config = adopt_backbone(on("tf_efficientnet_lite0"), checkpoint, "DIR")
    assert config.input.pixel_mean == (127.5, 127.5, 127.5)
    detector = build_detector(config).eval()
    assert "tensors from DIR; new: box_head, fpn, rpn" in load_backbone(detector, checkpoint, "DIR")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = detector.backbone(image)
    for ours, theirs in zip(found.values(), maps(net, "tf_efficientnet_lite0", image), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_resnets_with_the_tensor_names_of_a_plain_one(tmp_path: Path) -> None:
    """A blur before each stride has no weights, so that only the name of the file or the user tells them apart."""
    net = network("resnetblur18")
    torch.save(net.state_dict(), tmp_path / "resnetblur18-1.pth")
    said = convert(tmp_path / "resnetblur18-1.pth", tmp_path / "out")
    assert "the network is timm's resnetblur18 (the file name resnetblur18-1.pth)" in said
    checkpoint = load_checkpoint(tmp_path / "out")
    detector = build_detector(adopt_backbone(on("resnetblur18"), checkpoint, "DIR")).eval()
    load_backbone(detector, checkpoint, "DIR")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = detector.backbone(image)
    for ours, theirs in zip(found.values(), maps(net, "resnetblur18", image), strict=True):
        torch.testing.assert_close(ours, theirs)
    (tmp_path / "resnetblur18-1.pth").rename(tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"blocks of two convolutions .* with config \(--config\), e\.g\. resnet18"):
        convert(tmp_path / "model.pth", tmp_path / "out")
    assert "resnet18 of timm" in known.convert(tmp_path / "model.pth", "resnet18").summary
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert "resnet18 of timm" in known.convert(tmp_path / "model.pth").summary


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet"])
def test_files_with_timms_own_names(tmp_path: Path, name: str) -> None:
    net = network(name)
    file = tmp_path / "hub" / "model.pth"
    file.parent.mkdir()
    torch.save(net.state_dict(), file)
    with pytest.raises(ValueError, match=r"does not contain its name: give it with config \(--config\)"):
        convert(file, tmp_path / "out")
    beside = {"architecture": name, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (file.parent / "config.json").write_text(json.dumps(beside))
    convert(file, tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config.input.pixel_std == (102.0, 127.5, 153.0)
    detector = build_detector(adopt_backbone(on(name, "backbone.out_norm=true"), checkpoint, "DIR")).eval()
    assert "backbone.norms" in load_backbone(detector, checkpoint, "DIR")
    detector = build_detector(adopt_backbone(on(name), checkpoint, "DIR")).eval()
    load_backbone(detector, checkpoint, "DIR")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = detector.backbone(image)
    for ours, theirs in zip(found.values(), maps(net, name, image), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match=rf"has a different backbone than .*: add backbone.name={name}"):
        adopt_backbone(on("resnet18d"), checkpoint, "DIR")
    with pytest.raises(ValueError, match=r"kind timm, .* has kind resnet; expected weights \(--weights\) of a ResNet"):
        adopt_backbone(model_config("faster_rcnn_r50_fpn"), checkpoint, "DIR")
    convert(file, tmp_path / "named", name)
    with pytest.raises(ValueError, match="is not a network of timm"):
        convert(file, tmp_path / "other", "nothing_such")
