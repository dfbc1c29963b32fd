"""Several processes take the steps of one process with all images, whatever the norm and the objects of each."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from rcnn.data.loading import TrainingBatch
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.overrides import override
from rcnn.runtime.processes import ALONE, Processes
from rcnn.structures import ImageBatch
from rcnn.training import engine
from rcnn.training.log import RunLog, SilentLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainState
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.process_runs import in_processes

SIZES = [(32, 64), (30, 64), (32, 40), (32, 64)]
COUNTS = [0, 0, 2, 40]  # objects: none on the first of two processes
SETTINGS = TrainConfig(
    steps=12, batch_size=4, reference_batch=4, lr=0.005, warmup_steps=3, ema=0.9, clip_norm=5, log_every=1
)
NORMS = {
    "synchronized": ("mask.norm=bn",),
    "group": ("backbone.norm=none", "fpn.channels=32", "fpn.norm=gn"),
    "frozen": (),
}


def detector_of(norm: str, dtype: torch.dtype) -> Detector:
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", *NORMS[norm]]
    detector = build_detector(override(model_config("mask_rcnn_compact"), words))
    for module in detector.modules() if norm == "frozen" else ():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, FrozenBatchNorm2d(child.num_features))
    return detector.to(dtype)


def stream(first: int, rank: int = 0, world: int = 1) -> Generator[TrainingBatch, None, None]:
    """This process's part of batches of four images; another one of them has many objects in each."""
    for number in count(first):
        images = random_images(SIZES, seed=number)
        targets = random_targets(SIZES, COUNTS, 2, seed=number)
        own = slice(rank * 4 // world, (rank + 1) * 4 // world)
        yield TrainingBatch(
            images=ImageBatch(pixels=images.pixels[own], sizes=images.sizes[own]),
            targets=targets._map(lambda value: value[own]),  # noqa: B023
            image_ids=tuple(range(4))[own],
            first=own.start,
        )


def trained(norm: str, dtype: torch.dtype, processes: Processes, folder: Path) -> dict[str, Tensor]:
    """The weights, and their EMA, after training."""
    settings = replace(SETTINGS, batch_size=4 // processes.count)
    state = TrainState.start(detector_of(norm, dtype), settings, processes)
    batches = partial(stream, rank=processes.rank, world=processes.count)
    with RunFolder(folder, classes=("a", "b"), provenance={}, writes=processes.is_first) as run:
        log = RunLog(folder / "log.jsonl", steps=SETTINGS.steps) if processes.is_first else SilentLog()
        with log:
            engine.train(state, batches, settings, run, log)
    assert state.ema is not None
    return dict(state.detector.state_dict()) | {f"ema.{k}": v for k, v in state.ema.detector.state_dict().items()}


def cases(processes: Processes, folder: Path) -> dict[str, Any]:
    """The weights after training with each norm in float64, and with one of them in float32."""
    kinds = [(norm, torch.float64) for norm in NORMS] + [("synchronized", torch.float32)]
    return {f"{norm} {dtype}": trained(norm, dtype, processes, folder / f"{norm}-{dtype}") for norm, dtype in kinds}


def test_two_processes_equal_one_with_all_images(tmp_path: Path) -> None:
    expected = cases(ALONE, tmp_path / "one")
    first, second = in_processes(2, tmp_path / "two", partial(cases, folder=tmp_path / "two"))
    for case, weights in expected.items():
        furthest = 0.0
        for name, value in weights.items():
            assert torch.equal(first[case][name], second[case][name]), (case, name)
            if "float64" in case or "running" not in name:  # in float32, one other region changes running statistics
                furthest = max(furthest, float((first[case][name] - value).abs().max()))
        assert furthest < (1e-9 if "float64" in case else 1e-4), case
