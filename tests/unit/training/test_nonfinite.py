"""A gradient that is not finite in a step of several batches."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.structures import ImageBatch
from rcnn.training.finite import DivergedError, replay
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream, tiny, two_images


@pytest.mark.parametrize("at", [0, 1])
def test_a_gradient_that_is_not_finite_names_the_images_of_its_batch(tmp_path: Path, at: int) -> None:
    """With two batches per step, all losses of which are finite."""
    detector = tiny()
    wrong, _ = two_images(at)

    def spoil(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if output.requires_grad and torch.equal(seen[-1], wrong.pixels):
            output.register_hook(spoilt)

    def spoilt(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")

    def note(module: torch.nn.Module, inputs: tuple[ImageBatch]) -> None:
        seen.append(inputs[0].pixels)

    seen = list[torch.Tensor]()
    detector.register_forward_pre_hook(note)
    detector.backbone.get_submodule("res3").register_forward_hook(spoil)
    settings = replace(SETTINGS, steps=1, accumulate=2, diagnostics=False)
    with pytest.raises(DivergedError, match=rf"step 0: the gradient of .* on images {2 * at}, {2 * at + 1}\."):
        train(detector, stream, settings, tmp_path)
    lines = list(replay(tmp_path / "nonfinite.pt", torch.device("cpu")))
    assert lines[0] == f"step 0 with the images {2 * at}, {2 * at + 1}"


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_does_not_hide_what_was_not_finite(
    tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(values: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    if full:
        monkeypatch.setattr("rcnn.training.finite.save_values", save)
    detector = tiny()
    torch.nn.init.constant_(next(detector.backbone.parameters()), float("nan"))
    folder = tmp_path / "my run"
    said = "could not be saved .*No space left" if full else f"`rcnn train --replay '{folder}/nonfinite.pt'` computes"
    with pytest.raises(DivergedError, match=rf"step 0: .*the weight .* is not finite, on images 0, 1\..*{said}"):
        train(detector, stream, replace(SETTINGS, steps=1, diagnostics=False), folder)
    assert (folder / "nonfinite.pt").exists() != full


def test_a_file_that_is_no_batch_is_refused_without_the_advice_of_torch(tmp_path: Path) -> None:
    """torch's first line is "This file can still be loaded", which would run code of the file."""
    for name, value in {"code.pt": {"step": Path()}, "other.pt": {"step": 1}}.items():
        torch.save(value, tmp_path / name)
    (tmp_path / "half.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:200])
    said = "is not a batch that a run wrote when a loss was not finite: it"
    for name in ("code.pt", "half.pt", "other.pt"):
        with pytest.raises(ValueError, match=rf"^\S+{name} {said} .*\. Give the file RUN/nonfinite\.pt$") as refused:
            list(replay(tmp_path / name, torch.device("cpu")))
        assert "load" not in str(refused.value)
