"""The demo: the command that its report names, and a training that the time limit stopped."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.demo import run
from rcnn.stopping import Stopped
from rcnn.training.request import RunRequest
from rcnn.training.saver import Outcome


def test_the_report_names_the_whole_command() -> None:
    words = shlex.split(run.command_of(Path("my demo"), 3, ["train.steps=5"], "cuda"))
    threads = str(torch.get_num_threads())
    options = ["--output", "my demo", "--seed", "3", "--device", "cuda", "--threads", threads]
    assert words == ["rcnn", "demo", *options, "train.steps=5"]


@pytest.mark.parametrize(("signal", "raised"), [(None, ValueError), (15, Stopped)])
def test_a_time_limit_is_no_signal(
    signal: int | None, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(request: RunRequest, *, log: Callable[[str], object]) -> Outcome:
        return Outcome(
            output=tmp_path, step=7, steps=9, finished=False, best=None, best_metric="AP", metrics=None, signal=signal
        )

    monkeypatch.setattr(run, "run_training", stopped)
    with pytest.raises(raised) as error:
        run.run_demo(tmp_path / "demo", images={"train": 1, "val": 1, "unseen": 1}, log=lambda line: None)
    if isinstance(error.value, Stopped):
        assert error.value.number == 15
    else:
        assert str(error.value).startswith("train.time_limit stopped the training after 7 steps; the demo needs all")
