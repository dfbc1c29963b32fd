"""Too little memory in a step or in an evaluation of a run: the message names the settings to lower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.training.state import read_state
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=4", "train.batch_size=2", "train.workers=0", "train.log_every=1", "train.warmup_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(64, 96))


@pytest.mark.parametrize("size", [2, 1])
def test_too_little_memory_names_the_settings_to_lower(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As torch reports it for a CPU and for a GPU."""

    def failing(*_: object) -> None:
        if size == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        torch.empty(2**50)

    monkeypatch.setattr("rcnn.training.engine.optimize", failing)
    words = (*TINY_MODEL, *BRIEF, f"train.batch_size={size}", "--val-split", "none", "--device", "cpu")
    assert rcnn("train", "mask_rcnn_compact", "--data", data, "--output", tmp_path / "run", *words) == 2
    line = capsys.readouterr().err.splitlines()[-2]  # the last one is the command to go on
    assert line.startswith("rcnn: not enough memory on cpu for a training step: lower ")
    assert "input.max_size=128 and input.min_size=96" in line
    assert ("train.batch_size=2 (train.accumulate=2 with half of it" in line) == (size == 2)
    assert ("Tried to allocate 2.00 GiB" if size == 1 else "can't allocate memory") in line


def test_too_little_memory_for_an_evaluation_is_not_reported_as_a_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB\nmore")

    monkeypatch.setattr("rcnn.training.run.evaluate_detector", failing)
    words = (*TINY_MODEL, *BRIEF, "train.steps=1", "--device", "cpu")
    assert rcnn("train", "mask_rcnn_compact", "--data", data, "--output", tmp_path / "run", *words) == 2
    line = capsys.readouterr().err.splitlines()[-2]  # the last one is the command to go on
    assert line.startswith("rcnn: not enough memory on cpu for the evaluation after 1 step: lower input.max_size=128 ")
    assert line.endswith("(CUDA out of memory. Tried to allocate 3.00 GiB)")
    assert read_state(tmp_path / "run" / "last")["step"] == 1
