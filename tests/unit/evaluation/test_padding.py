"""How `evaluate` pads the images of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rcnn.data.loading import Padding
from rcnn.evaluation import api
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import save_checkpoint
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco


@pytest.mark.parametrize("padding", ["exact", "bucket"])
@pytest.mark.parametrize("compile", [False, True])
def test_only_the_argument_chooses_the_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: Padding, compile: bool
) -> None:
    """Compilation itself takes minutes, and is left out here."""
    data = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    save_checkpoint(
        tmp_path / "model", build_detector(override(model_config("mask_rcnn_compact"), words)), classes=CLASSES
    )
    expected = api.evaluate(Predictor(tmp_path / "model", device="cpu", padding=padding), data)
    opened: list[tuple[str, bool]] = []

    class Eager(Predictor):
        def __init__(self, *args: Any, compile: bool, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append((self.padding, compile))

    monkeypatch.setattr(api, "Predictor", Eager)
    found = api.evaluate(tmp_path / "model", data, device="cpu", padding=padding, compile=compile)
    assert opened == [(padding, compile)]
    assert found.results == expected.results != []
