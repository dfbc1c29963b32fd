"""Training on images with damage that is found only when they are decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rcnn.weights.checkpoint import load_checkpoint
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=4", "train.batch_size=2", "train.log_every=1", "train.warmup_steps=2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path / "tiny", {"train": 5, "val": 2}, size=(64, 96))


def test_a_damaged_image_costs_only_its_places(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage behind the header, which is found when the image is decoded: the run goes on, unless it is strict."""
    damaged = shutil.copytree(data, tmp_path / "data")
    for split in ("train", "val"):
        file = damaged / split / f"{split}_2.png"
        file.write_bytes(file.read_bytes()[:2000])
    words = ("--device", "cpu", *TINY_MODEL, *BRIEF, "train.trackers=[]", "train.pictures=0", "train.steps=5")
    weights = []
    for workers in (0, 2):
        output = tmp_path / f"workers {workers}"
        more = (f"train.workers={workers}", "train.validation_loss=true")
        assert rcnn("train", "mask_rcnn_compact", "--data", damaged, "--output", output, *words, *more) == 0
        error = " ".join(capsys.readouterr().err.split())
        assert error.count("Another image takes its place") == 1
        assert "train_2.png is truncated or damaged" in error
        assert "1 of 2 images could not be evaluated" in error
        weights.append(load_checkpoint(output / "last").state)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    output = tmp_path / "strict"
    assert rcnn("train", "mask_rcnn_compact", "--data", damaged, "--output", output, "--strict", *words) == 2
    assert "train_2.png is truncated or damaged" in capsys.readouterr().err
