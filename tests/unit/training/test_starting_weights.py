"""The weights that a run starts from: chosen, or by default COCO's, ImageNet's or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.training.settings import FINE_TUNING, FROM_SCRATCH, LITE, TrainConfig
from rcnn.training.starting import (
    choose_weights,
    first_weights,
    frozen_and_random,
    is_whole,
    same_weights,
    starting_settings,
)
from rcnn.weights.backbone import adopt_backbone
from rcnn.weights.checkpoint import Checkpoint, load_checkpoint
from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco
from tests.unit.training.runs import run
from tests.unit.weights.published_files import MODEL, NAME, publish, serving, write_published

BRIEF = (
    "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0", "input.min_size=64",
    "input.max_size=96", "rpn.proposals.post_nms_train=20", "box.sampling.batch_size=8",
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "given", "words", "weights"),
    [
        ("mask_rcnn_r50_fpn", "", "", "mask_rcnn_r50_fpn@torchvision"),
        ("mask_rcnn_r50_fpn", "", "input.min_size=640 keypoint={}", "mask_rcnn_r50_fpn@torchvision"),
        ("mask_rcnn_r50_fpn", "", "backbone.depth=152", "resnet152@torchvision"),
        ("mask_rcnn_r50_fpn", "", "cascade={} box.class_agnostic=true", "resnet50@torchvision"),
        ("mask_rcnn_r50_fpn", "none", "", ""),
        ("mask_rcnn_r50_fpn", "imagenet", "", "resnet50@torchvision"),
        ("mask_rcnn_r50_fpn_caffe", "imagenet", "", "resnet50@msra"),
        ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn@detectron2-3x", "", "mask_rcnn_r50_fpn_caffe@detectron2-3x"),
        ("cascade_mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn", "", "mask_rcnn_r50_fpn@torchvision"),
        ("mask_rcnn_r50_fpn", "some/folder", "", "some/folder"),
        ("faster_rcnn_r50_c4", "", "", "resnet50@torchvision"),
        ("cascade_mask_rcnn_r101_fpn_gn_scratch", "", "", ""),
        ("mask_rcnn_compact", "", "", ""),
        ("faster_rcnn_mobilenet_v3_large_fpn", "imagenet", "", "mobilenet_v3_large@torchvision"),
        ("mask_rcnn_lite0_fpn", "", "", "tf_efficientnet_lite0@package"),
        ("mask_rcnn_fbnetv3a_c4", "", "", "mask_rcnn_fbnetv3a_c4@d2go"),
        ("mask_rcnn_convnext_tiny_fpn", "", "", "convnext_tiny@timm"),
        ("mask_rcnn_convnext_tiny_fpn", "", "backbone.pretrained=true", ""),
    ],
)
def test_which_weights(model: str, given: str, words: str, weights: str) -> None:
    assert choose_weights(model, given, model_config(model), words.split())[0] == weights


def test_the_weights_of_a_run_in_words() -> None:
    assert first_weights("mask_rcnn_compact", "") == first_weights("config:own", "") == "random"
    assert first_weights("mask_rcnn_r50_fpn", "resnet50@torchvision") == "resnet50@torchvision"
    assert first_weights("runs/a/best", "") == "runs/a/best"  # a checkpoint has its own


def test_a_passed_config_starts_from_random_weights() -> None:
    assert choose_weights("config:mask_rcnn_r50_fpn", "", model_config("mask_rcnn_r50_fpn"), ())[0] == ""


def test_imagenet_for_a_backbone_without_known_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--weights imagenet: no ImageNet weights are known .* mask_rcnn_compact"):
        choose_weights("mask_rcnn_compact", "imagenet", model_config("mask_rcnn_compact"), ())


def test_a_whole_detector_is_fine_tuned_and_a_backbone_is_trained_as_in_the_papers() -> None:
    assert is_whole("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_caffe@detectron2-3x")
    assert not is_whole("cascade_mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn@torchvision")
    assert not is_whole("mask_rcnn_r50_fpn", "resnet50@torchvision")
    assert not is_whole("mask_rcnn_r50_fpn", "")
    assert starting_settings("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn@torchvision") == FINE_TUNING
    assert starting_settings("mask_rcnn_r50_fpn", "resnet50@torchvision") == TrainConfig()
    assert starting_settings("mask_rcnn_lite0_fpn", "tf_efficientnet_lite0@package") == LITE
    assert starting_settings("mask_rcnn_lite0_fpn", "none") == FROM_SCRATCH


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.steps=20"], FROM_SCRATCH),
        (["train.optimizer=adamw", "train.lr=0.001"], FROM_SCRATCH),
        (["train.lr=0.02"], TrainConfig()),
        (["train.optimizer = sgd"], TrainConfig()),
    ],
)
def test_a_learning_rate_for_sgd_is_not_used_with_adamw(words: list[str], expected: TrainConfig) -> None:
    assert starting_settings("mask_rcnn_compact", overrides=words) == expected


def test_the_same_choice_again_is_no_change_of_a_run() -> None:
    for given, recorded in (
        ("", "x"), ("none", ""), ("imagenet", "resnet50@torchvision"), ("a/b", "a/b"),
        ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn@torchvision"),
    ):  # fmt: skip
        assert same_weights(given, recorded)
    for given, recorded in (("none", "resnet50@torchvision"), ("imagenet", ""), ("imagenet", "a/b"), ("a/b", "")):
        assert not same_weights(given, recorded)


def test_a_run_by_name_fine_tunes_published_weights_and_resumes_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(64, 96))
    file = write_published(tmp_path / "published")
    lines: list[str] = []
    with serving(file.parent) as (address, _):
        publish(file, address, monkeypatch)
        run(MODEL, data, tmp_path / "run", [*BRIEF, "train.lr=0"], lines=lines)
    assert f"weights: {NAME} (its COCO weights; --weights imagenet, or none for random weights)" in lines
    assert any(line.startswith(f"{NAME}: transferred ") for line in lines)
    started, trained = load_checkpoint(NAME), load_checkpoint(tmp_path / "run" / "last")
    name = "backbone.res2.0.conv1.weight"
    torch.testing.assert_close(trained.state[name], started.state[name])
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["started_from"], record["weights"]) == (MODEL, NAME)
    assert record["train"]["optimizer"] == FINE_TUNING.optimizer

    monkeypatch.setenv("RCNN_OFFLINE", "1")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "empty"))
    run(MODEL, data, tmp_path / "run", ["train.steps=2"], resume=True, lines=lines)
    assert any("resuming" in line for line in lines)
    with pytest.raises(ValueError, match=rf"weights \(--weights\) cannot change .*: it is {NAME} in .*none"):
        run(MODEL, data, tmp_path / "run", ["train.steps=3"], resume=True, weights="none")


def test_the_backbone_of_published_weights_is_used_for_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(64, 96))
    file = write_published(tmp_path / "published")
    small = ["backbone.blocks=[1,2,1,1]", "fpn.channels=16", "box.fc_width=16"]
    lines: list[str] = []
    with serving(file.parent) as (address, _):
        publish(file, address, monkeypatch)
        run("faster_rcnn_r50_fpn", data, tmp_path / "run", [*BRIEF, *small], weights=NAME, lines=lines)
    assert any(line.startswith("backbone: ") and NAME in line for line in lines)


def test_without_network_training_says_how_to_do_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(64, 96))
    for words in (("mask_rcnn_r50_fpn",), ("mask_rcnn_r50_fpn", "--weights", "imagenet")):
        assert command("train", *words, "--data", data, "--output", tmp_path / "run") == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1] == "To train from random weights instead: --weights none"
        assert any(line.startswith("https://download.pytorch.org/models/") for line in lines)
    assert not (tmp_path / "run").exists()
    assert command("train", "mask_rcnn_r50_fpn", "--data", data, "--weights", "none", "--dry-run") == 0
    plan = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "weights random (given)" in plan


@pytest.mark.parametrize(
    ("words", "download"),
    [
        (["mask_rcnn_r50_fpn"], "mask_rcnn_r50_fpn@torchvision (170 MiB)"),
        (["--recipe", "tensorpack/R50-FPN-1x"], "resnet50@tensorpack"),
    ],
)
def test_a_dry_run_downloads_nothing(
    words: list[str],
    download: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "empty"))
    data = write_tiny_coco(tmp_path / "data", {"train": 2, "val": 1}, size=(64, 96))
    assert command("train", *words, "--data", data, "--dry-run") == 0
    assert f"weights: a run downloads {download}" in capsys.readouterr().out
    assert not (tmp_path / "empty").exists()
    assert command("train", *words, "--data", data, "--output", tmp_path / "run") == 2
    assert "is not in the cache, and --offline (RCNN_OFFLINE) forbids downloads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("mask_rcnn_r50_fpn", "backbone.norm=bn fpn.norm=bn backbone.frozen_stages=0"),
        ("mask_rcnn_lite0_fpn", "backbone.frozen_norms=false backbone.frozen_stages=0"),
        ("mask_rcnn_compact", ""),
        ("cascade_mask_rcnn_r101_fpn_gn_scratch", ""),
    ],
)
def test_the_warning_of_random_weights_trains_all_of_the_backbone(model: str, words: str) -> None:
    config = model_config(model)
    warning = frozen_and_random(config)
    assert bool(warning) == bool(words)
    assert f"set {words} train." in warning or not words
    assert frozen_and_random(override(config, words.split())) == ""


def test_a_dry_run_warns_of_random_weights_under_frozen_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1})
    words = ("--data", data, "--weights", "none", "--output", tmp_path / "run", "--device", "cpu", "--dry-run")
    assert command("train", "mask_rcnn_r50_fpn", *words) == 0
    out = capsys.readouterr().out
    assert out.count("parts of the backbone are frozen and keep them") == 1
    assert command("train", "mask_rcnn_compact", *words) == 0
    assert "parts of the backbone are frozen" not in capsys.readouterr().out


def test_a_backbone_that_is_not_taken_alone_names_the_other_command() -> None:
    config = model_config("mask_rcnn_fbnetv3a_c4")
    with pytest.raises(ValueError, match=r"takes no backbone of kind fbnet alone\. .*: rcnn train m --data DIR"):
        adopt_backbone(config, Checkpoint(config=config, classes=(), provenance={}, state={}), "m")
