"""benchmarks/loader.py: the loader beside Pillow's decoder and beside the one that it uses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.data import open_dataset
from tests.tiny_data import write_tiny_coco

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
SECONDS = {"pillow": 3.0, "torchcodec": 1.0, "read_image": 1.5, "loader": 4.0}


@pytest.mark.parametrize("installed", [False, True])
def test_the_loader_is_compared_with_each_decoder(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    loader = importlib.import_module("loader")

    def called(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
        for call in calls.values():
            call()
        return {name: SECONDS[name] for name in calls}

    def decoded(content: bytes) -> torch.Tensor | None:
        return torch.zeros(3, 1, 1) if installed else None

    monkeypatch.setattr(loader, "cpu_seconds", called)
    monkeypatch.setattr(loader, "decode_jpeg", decoded)
    data = open_dataset(write_tiny_coco(tmp_path / "data", {"train": 3}, size=(32, 48)))
    found = loader.measured(data, "mask_rcnn_compact", ["train.batch_size=2", "input.min_size=32"], 1)
    # 3 images are decoded, and 2 are loaded: one whole batch
    rates = {"pillow": 1.0, "torchcodec": 3.0, "read_image": 2.0, "loader": 0.5}
    parts = {"pillow": 0.5, "torchcodec": 0.167}
    absent = set[str]() if installed else {"torchcodec"}
    assert found["images_per_cpu_second"] == {name: rates[name] for name in rates.keys() - absent}
    assert found["loader_as_part_of"] == {name: parts[name] for name in parts.keys() - absent}
