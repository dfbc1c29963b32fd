"""`rcnn.train` as a function: the run that it leaves, and what it prints about faulty data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")


def test_a_run_from_python_with_an_evaluation_and_a_warning(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1})
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["annotations"][0]["iscrowd"] = None
    file.write_text(json.dumps(tables))
    lines: list[str] = []
    run = rcnn.train("mask_rcnn_compact", data, tmp_path / "run", settings=(*TINY_MODEL, *BRIEF), log=lines.append)
    assert (run.folder, run.step, run.finished) == (tmp_path / "run", 1, True)
    assert run.best is not None
    [warning] = [line for line in lines if line.startswith("warning:") and "iscrowd" in line]
    assert "1 annotation has an iscrowd that is neither 0 nor 1 (id 1)" in warning
    with pytest.raises(ValueError, match="refused by --strict"):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "other", settings=(*TINY_MODEL, *BRIEF), strict=True)
    assert not (tmp_path / "other").exists()
