"""The page of a run that did not end as planned: killed, or failed."""

from __future__ import annotations

import json
import re
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


def test_the_page_is_that_of_the_last_evaluation_while_a_run_goes_on(data: Path, tmp_path: Path) -> None:
    """What is on the disk when the next evaluation begins to draw is what a run that is killed there leaves."""
    output, seen = tmp_path / "run", list[str]()

    def read(*given: object) -> None:
        if given[-1] == 2:  # the evaluation after the second step
            seen.extend((output / name).read_text(encoding="utf-8") for name in ("report.html", "curve.html"))

    with patch("rcnn.training.run.write_pictures", read):
        runs.run("mask_rcnn_compact", data, output, (*TINY_MODEL, *BRIEF), charts=True)
    page, curve = seen
    assert "1 of 2 steps, running." in page
    assert "bbox AP50" in page  # the evaluation after the first step
    assert "<svg" in curve


def test_the_page_says_that_a_run_has_finished_also_if_its_process_was_killed_before_it_wrote_so(
    data: Path, tmp_path: Path
) -> None:
    words, page = (*TINY_MODEL, *BRIEF), tmp_path / "run" / "report.html"
    runs.run("mask_rcnn_compact", data, tmp_path / "run", words, charts=True)
    finished = page.read_text(encoding="utf-8")
    assert "2 of 2 steps, finished." in finished
    page.write_text(finished.replace("2 of 2 steps, finished.", "2 of 2 steps, running."), encoding="utf-8")
    runs.run("mask_rcnn_compact", data, tmp_path / "run", words, charts=True, resume=True)
    assert "2 of 2 steps, finished." in page.read_text(encoding="utf-8")


def test_the_page_has_all_commands_of_a_run_each_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, page = (*TINY_MODEL, *BRIEF[1:]), tmp_path / "run" / "report.html"
    typed = ["rcnn train m", "rcnn train m --resume --devices 2", "rcnn train m --resume --devices 2", "rcnn eval"]
    rows = list[list[str]]()
    for number, (command, steps) in enumerate(zip(typed, (1, 2, 3, 3), strict=True)):
        monkeypatch.setenv("RCNN_TYPED", command)
        own = (*words, f"train.steps={steps}")
        runs.run("mask_rcnn_compact", data, tmp_path / "run", own, charts=True, resume=number > 0)
        rows.append(re.findall(r"<tr><th>(command.*?)</th><td>(.*?)</td>", page.read_text(encoding="utf-8")))
    both = [("command 1", typed[0]), ("command 2", typed[1])]
    assert rows == [[("command", typed[0])], both, both, both]  # the last one had nothing to do
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["commands"] == typed[:2]


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
