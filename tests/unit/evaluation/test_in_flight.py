"""What an evaluation notes about itself for the watchdog and the launcher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import typing_extensions

from rcnn.data import open_dataset
from rcnn.evaluation.evaluate import evaluate_dataset
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.runtime.monitor import RESTING, Monitor
from rcnn.runtime.processes import ALONE
from rcnn.training.saver import Saver
from rcnn.training.settings import TrainConfig
from rcnn.training.signals import StopRequests
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco


class Noted(Monitor):
    """Keeps what a process says that it does."""

    def __init__(self) -> None:
        super().__init__("process 0 of 1", 0)
        self.said: list[str] = []

    @typing_extensions.override
    def doing(self, text: str) -> None:
        self.said.append(text)

    @typing_extensions.override
    def rest(self, work: str = RESTING, *, failed: bool = False) -> None:
        self.said.append("failed" if failed else "rest" if work == RESTING else f"rest: {work}")


def test_the_images_in_flight_are_noted_for_the_watchdog_and_the_launcher(tmp_path: Path) -> None:
    """A stall while the metrics are computed is none: they may take long."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 3}, size=(64, 96))
    torch.manual_seed(0)
    detector = build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"]))
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    monitor = Noted()
    dataset = open_dataset(data, "val", CLASSES)
    evaluate_dataset(predictor, dataset, batch_size=2, processes=replace(ALONE, monitor=monitor))
    images = ["the prediction on images 1, 2", "the prediction on image 3"]
    assert monitor.said == [*images, "rest", "rest: the computation of the metrics"]


@pytest.mark.parametrize(("step", "next_work"), [(2, "the data of step 2"), (3, "the end of the run")])
def test_after_an_evaluation_a_run_notes_what_it_starts(step: int, next_work: str) -> None:
    monitor = Noted()
    state = MagicMock(step=step, best=None, processes=replace(ALONE, monitor=monitor))
    evaluate = MagicMock(return_value={"bbox": {"AP": 0.5}})
    saver = Saver(state, TrainConfig(steps=3), MagicMock(), MagicMock(), evaluate)
    saver.evaluate_if_due(StopRequests())
    assert monitor.said == ["rest", next_work]
