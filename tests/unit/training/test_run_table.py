"""Which runs `rcnn runs` calls finished, files that never end, and the order of the pictures of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rcnn.training.found_run import FIELDS
from rcnn.training.pictures import pictures_of
from rcnn.training.run_table import list_runs


def write_run(folder: Path, lines: list[dict[str, Any]], **fields: Any) -> None:
    record: dict[str, Any] = {name: kind() for name, kind in FIELDS.items()} | {"train": {"steps": 4}} | fields
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("fields", "evaluated", "state"),
    [
        ({"splits": ["train", "val"]}, True, "finished"),
        ({"splits": ["train", "val"]}, False, "stopped 100 %"),  # in its last evaluation
        ({"splits": ["train", "none"], "held_out": {"files": ["a.jpg"]}}, False, "stopped 100 %"),
        ({"splits": ["train", "none"]}, False, "finished"),
    ],
)
def test_a_run_is_finished_when_its_last_evaluation_is(
    tmp_path: Path, fields: dict[str, Any], evaluated: bool, state: str
) -> None:
    lines: list[dict[str, Any]] = [{"step": 1, "bbox_AP": 0.1, "since_best": 0}, {"step": 3, "loss": 1.0}]
    write_run(tmp_path / "run", lines + [{"step": 3, "bbox_AP": 0.2, "since_best": 0}] * evaluated, **fields)
    assert [row.state for row in list_runs(tmp_path)] == [state]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_not_read(tmp_path: Path) -> None:
    """A read would wait for ever."""
    write_run(tmp_path / "run", [], splits=["train", "none"])
    (tmp_path / "run" / "log.jsonl").unlink()
    os.mkfifo(tmp_path / "run" / "log.jsonl")
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "config.json")
    assert [(row.folder, row.step) for row in list_runs(tmp_path)] == [("run", 0)]


def test_the_pictures_of_more_than_nine_images_are_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"{number}-a").mkdir()
        (tmp_path / f"{number}-a" / "step-5.jpg").touch()
    assert list(pictures_of(tmp_path)) == ["1-a", "2-a", "10-a"]
