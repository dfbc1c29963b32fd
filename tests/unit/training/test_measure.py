"""`rcnn train --dry-run --measure N`."""

from __future__ import annotations

from pathlib import Path

import pytest

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
