"""`rcnn.train(trackers=[...])`: objects of the user that get the numbers of the log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import rcnn
from rcnn.training.log import read_log
from rcnn.training.trackers import own_trackers
from tests.tiny_data import TINY_MODEL, write_tiny_coco

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
BRIEF = (
    "train.steps=3", "train.batch_size=2", "train.workers=0", "train.warmup_steps=1", "train.log_every=1",
    "train.pictures=0", "train.diagnostics=false", "train.evaluate_every=0",
)  # fmt: skip


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.calls = list[Any]()

    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        self.calls.append(("start", folder.name, record["train"]["steps"], first_step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, dict(values)))

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 2, "val": 2}, size=(64, 96))


def test_an_own_tracker_gets_every_number_of_the_log(data: Path, tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    with patch("rcnn.training.run._draw_curve"):
        words = [*TINY_MODEL, *BRIEF, "train.trackers=[]"]
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=words, device="cpu", trackers=[first, second])
    assert first.calls == second.calls
    assert first.calls[0] == ("start", "run", 3, 0)
    assert first.calls[-1] == "close"
    logged = [
        (line.pop("step"), {name: value for name, value in line.items() if isinstance(value, float | int)})
        for line in read_log(tmp_path / "run/log.jsonl")
    ]
    assert [step for step, _ in logged] == [0, 1, 2, 2]  # three steps, one evaluation
    got = first.calls[1:-1]
    for (step, values), (logged_step, line) in zip(got, logged, strict=True):
        assert (step, {"seconds": line["seconds"], **values}) == (logged_step, line)
    assert got[0][1]["loss"] > 0
    assert 0 <= got[-1][1]["segm_AP"] <= 1


def test_the_example_of_the_page(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    given = f"{str(data)!r}, {str(tmp_path / 'run')!r}, overrides={[*TINY_MODEL, *BRIEF, 'train.steps=1']!r}, log=str"
    with patch("rcnn.training.run._draw_curve"):
        exec(code.replace('"DIR"', given), {})  # noqa: S102  the page is ours
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"training mask_rcnn_compact in {tmp_path / 'run'}"
    assert lines[1].startswith("0 {'loss': ")
    assert lines[-1] == "done"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["wandb"], r"trackers\[0\] is 'wandb'; names are for the setting: overrides=\['train.trackers=\[wandb\]'\]"),
        ("wandb", "trackers is 'wandb'; expected a list of objects with the methods start, log, close"),
        ([Recorder(), 3], r"trackers\[1\] has no method start; expected an object with the methods"),
        ([Recorder], r"trackers\[0\] is a class; expected an object"),
    ],
)
def test_what_is_no_tracker_is_refused(given: Any, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        own_trackers(given)
    with pytest.raises(ValueError, match=message):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", trackers=given)
    assert not (tmp_path / "run").exists()


class OpenFile(Recorder):
    """A tracker that cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = lambda: None


def test_a_tracker_that_cannot_be_sent_to_processes_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trackers cannot be sent to the processes that are started"):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", device="cpu", devices=2, trackers=[OpenFile()])
    assert not (tmp_path / "run").exists()
