"""`rcnn convert`: a backbone to train from, the list of systems, one-line errors, and refused exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from rcnn.models import build_detector, model_config
from rcnn.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco


def test_a_backbone_of_imagenet_to_train_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict(), tmp_path / "resnet.pth")
    assert rcnn("convert", tmp_path / "resnet.pth", "--output", tmp_path / "resnet") == 0
    said = capsys.readouterr().out
    assert "backbone only" in said
    assert "self-check: read back bit for bit" in said
    command = load_checkpoint(tmp_path / "resnet").provenance["command"]
    assert command == f"rcnn convert {tmp_path / 'resnet.pth'} --output {tmp_path / 'resnet'}"

    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(64, 96))
    small = [
        "backbone.blocks=[1,1,1,1]",
        "input.min_size=64",
        "input.max_size=96",
        "fpn.channels=16",
        "box.fc_width=16",
    ]
    brief = ["train.steps=1", "train.batch_size=1", "train.workers=0"]
    run = ("train", "faster_rcnn_r50_fpn", "--data", data, "--output", tmp_path / "run", *small, *brief)
    assert rcnn(*run, "--weights", tmp_path / "resnet", "--device", "cpu") == 0
    assert "backbone: 85 tensors from" in capsys.readouterr().out
    assert rcnn(*run[:5], tmp_path / "run2", *small, "backbone.norm=gn", "--weights", tmp_path / "resnet") == 2
    assert "add backbone.norm=frozen_bn" in capsys.readouterr().err
    assert rcnn("predict", tmp_path / "resnet", data / "train", "--output", tmp_path / "found") == 2
    assert "contains only a backbone" in capsys.readouterr().err


def test_the_list_and_errors_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("convert", "--list") == 0
    assert "Detectron2: .pkl, .pth; --config takes" in capsys.readouterr().out
    (tmp_path / "a.pkl").write_bytes(b"<html>")
    for words, message in (
        (("convert",), "expected a FILE, e.g. rcnn convert model_final.pkl"),
        (("convert", tmp_path / "a.pkl", "--output", tmp_path / "out"), "is a web page"),
        (("convert", tmp_path / "gone.pkl", "--output", tmp_path / "out"), "does not exist"),
        (
            ("convert", tmp_path, "--to", "yolo", "--output", tmp_path / "out.pth"),
            "--to yolo: expected one of detectron2",
        ),
        (
            ("convert", tmp_path, "--to", "detectron2", "--classes", "a", "--output", "b.pth"),
            "--classes cannot be used",
        ),
        (
            ("convert", tmp_path, "--to", "detectron2", "--allow-unused", "x*", "--allow-nonfinite", "--output", "b"),
            "--allow-unused, --allow-nonfinite cannot be used with --to; leave them out",
        ),
    ):
        assert rcnn(*words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pkl"]


def test_the_default_output_is_a_new_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict(), "resnet.pth")
    for number in (1, 2):
        assert rcnn("convert", "resnet.pth") == 0
        assert f"wrote runs/convert-resnet-{number}" in capsys.readouterr().out
        assert load_checkpoint(f"runs/convert-resnet-{number}").kind == "backbone"
    config = replace(model_config("faster_rcnn_compact"), num_classes=1)
    save_checkpoint("mine", build_detector(config), config, ["a"], {})
    assert rcnn("convert", "mine", "--to", "torchvision") == 2
    assert sorted(path.name for path in Path("runs").iterdir()) == ["convert-resnet-1", "convert-resnet-2"]
