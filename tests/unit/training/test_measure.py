"""`rcnn train --dry-run --measure N`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.runtime.processes import Processes
from rcnn.training import measure as module
from rcnn.training.finite import NonFiniteError
from rcnn.training.measure import measure
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from tests.tiny_data import TINY_MODEL, write_tiny_coco


def test_a_loss_that_is_not_finite_is_reported_with_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*given: object) -> None:
        raise NonFiniteError([], {})

    data = write_tiny_coco(tmp_path, {"train": 2}, size=(48, 64))
    words = (*TINY_MODEL, "train.steps=4", "train.batch_size=1", "train.workers=0")
    request = RunRequest(model="mask_rcnn_compact", data=data, overrides=words, device="cpu")
    plan = plan_training(request, log=lambda line: None)
    monkeypatch.setattr(module, "optimize", diverging)
    with pytest.raises(ValueError, match=r"step 0: a loss or a gradient is not finite, on image [12]\. A run"):
        measure(plan, 2)


def test_processes_of_a_launcher_are_not_measured_and_deterministic_steps_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()

    def noting(*given: object) -> dict[str, torch.Tensor]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return {"loss": torch.zeros(())}

    data = write_tiny_coco(tmp_path, {"train": 2}, size=(48, 64))
    words = (*TINY_MODEL, "train.batch_size=1", "train.workers=0", "train.deterministic=true")
    plan = plan_training(
        RunRequest(model="mask_rcnn_compact", data=data, overrides=words, device="cpu"), log=lambda line: None
    )
    with pytest.raises(ValueError, match=r"only a plan for one process can be measured, and this one is for 2 \("):
        measure(replace(plan, processes=Processes(count=2)), 1)
    monkeypatch.setattr(module, "optimize", noting)
    assert measure(plan, 1).steps == 1
    assert seen == [True, True]
