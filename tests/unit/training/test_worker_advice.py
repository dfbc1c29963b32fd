"""The number of worker processes follows from the cores of a machine with GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.runtime.processes import processes_here
from rcnn.training import plan
from rcnn.training.advice import advise_workers
from rcnn.training.request import RunRequest
from rcnn.training.settings import TrainConfig
from tests.tiny_data import TINY_MODEL, write_tiny_coco


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, 1, 2), (2, 1, 2), (3, 1, 3), (16, 1, 8), (16, 4, 4), (128, 8, 8), (8, 8, 2)],
)
def test_workers_share_the_cores(cores: int, processes: int, workers: int) -> None:
    assert advise_workers(cores, processes)[0] == workers


@pytest.mark.parametrize(("said", "local"), [("", 16), ("4", 4), ("0", 16), ("32", 16), ("x", 16)])
def test_processes_of_this_machine(said: str, local: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
    assert processes_here(16) == local


def test_only_a_run_on_a_gpu_gets_more_workers_unless_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(32, 48))
    monkeypatch.setattr(plan, "available_cores", lambda: 6)
    device = "cuda"

    def chosen(name: str) -> torch.device:
        return torch.device(device)

    monkeypatch.setattr(plan, "choose_device", chosen)

    def planned(*words: str, settings: TrainConfig | None = None, devices: int = 1) -> tuple[int, str]:
        request = RunRequest(model="mask_rcnn_compact", data=data, overrides=(*TINY_MODEL, *words), settings=settings)
        found = plan.plan_training(request, log=lambda text: None, devices=devices)
        return found.settings.workers, found.reasons["train.workers"]

    assert planned() == (6, "6 CPU cores, and a GPU needs images faster than a CPU")
    assert planned("train.workers=1") == (1, "given")
    assert planned(settings=TrainConfig(workers=4)) == (4, "default of this command")
    device = "cpu"
    assert planned() == (2, plan.DEFAULT)
