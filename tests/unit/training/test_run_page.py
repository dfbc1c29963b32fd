"""The page of a run that did not end as planned: killed, or failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training import runs

BRIEF = ("train.steps=2", "train.batch_size=2", "train.workers=0", "train.warmup_steps=1", "train.evaluate_every=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training images and one validation image."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 2, "val": 1}, size=(64, 96))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_the_page_of_a_run_that_is_killed_is_that_of_the_last_evaluation(data: Path, tmp_path: Path) -> None:
    def kill_at_the_second(*given: object) -> None:
        if given[-1] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        with patch("rcnn.training.run.write_pictures", kill_at_the_second):
            runs.run("mask_rcnn_compact", data, tmp_path / "run", (*TINY_MODEL, *BRIEF), charts=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "1 of 2 steps, running." in page
    assert "bbox AP50" in page  # the evaluation after the first step
    assert "<svg" in (tmp_path / "run/curve.html").read_text(encoding="utf-8")


def test_the_page_of_a_run_that_failed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise ValueError("no images")

    monkeypatch.setattr("rcnn.training.run.train", fail)
    with pytest.raises(ValueError, match="no images"):
        runs.run("mask_rcnn_compact", data, tmp_path / "run", (*TINY_MODEL, *BRIEF), charts=True)
    assert "0 of 2 steps, failed." in (tmp_path / "run/report.html").read_text(encoding="utf-8")

    def fail_too(*arguments: object, **more: object) -> None:
        raise ValueError("no charts")

    monkeypatch.setattr("rcnn.training.run._draw_curve", fail_too)
    with pytest.raises(ValueError, match="no images"):
        runs.run("mask_rcnn_compact", data, tmp_path / "run2", (*TINY_MODEL, *BRIEF), charts=True)
