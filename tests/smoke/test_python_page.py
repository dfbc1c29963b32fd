"""The examples of docs/python.md run, one after the other, on a tiny checkpoint and data set."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = re.findall(
        r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert len(sections) == 15
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "data", {"train": 3, "val": 2}, size=(64, 96))
    shutil.copy(tmp_path / "data" / "val" / "val_1.png", "photo.jpg")  # the content decides the format
    brief = ("train.steps=1", "train.batch_size=2", "train.workers=0", "box.score_threshold=0.01")
    rcnn.train("mask_rcnn_compact", "data", "runs/shapes", overrides=[*TINY_MODEL, *brief], log=lambda line: None)
    names: dict[str, Any] = {}
    for title, text in sections:
        examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert examples, title
        for code in examples:
            if file := re.match(r"# (\w+\.py)\n", code):
                Path(file[1]).write_text(code)
            else:
                exec(compile(code, f"docs/python.md, {title}", "exec"), names)  # noqa: S102  the page is ours
    assert names["plan"].values["train.steps"] == 3  # 2 epochs of 3 images, 2 per step
    for made in (
        "found.png",
        "runs/mine/last",
        "runs/own/last",
        "runs/loop/config.json",
        "runs/converted/config.json",
        "coco.json",
    ):
        assert (tmp_path / made).exists(), made
