"""A backbone of 20 lines in the user's own file: trained, resumed, saved, and loaded in a fresh process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import rcnn
from rcnn.own_code import OWN_PACKAGE
from tests.command import rcnn as run_rcnn
from tests.faults.forked_commands import forked
from tests.own_modules import write_own_modules
from tests.tiny_data import TINY_MODEL, write_tiny_coco

FACTORY = "my_backbone.py:MyBackbone"
OWN = (f"backbone.factory={FACTORY}", "backbone.arguments={width: 20}")
MODEL = tuple(word for word in TINY_MODEL if not word.startswith("backbone."))
BRIEF = ("train.batch_size=2", "train.workers=0", "box.score_threshold=0.01")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: data, a photo, and the user's files."""
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "data", {"train": 3, "val": 2}, size=(64, 96))
    (tmp_path / "photo.png").write_bytes((tmp_path / "data" / "val" / "val_1.png").read_bytes())
    return write_own_modules(tmp_path)


def predict_to_file(folder: Path) -> None:
    """Predict in the fresh process that this runs in, which has not loaded the user's files."""
    assert not [name for name in sys.modules if name.startswith(OWN_PACKAGE)]
    os.chdir(folder)
    result = rcnn.Predictor.from_checkpoint("run/last", allow=[FACTORY], device="cpu").predict("photo.png")
    np.savez("fresh.npz", boxes=result.boxes, scores=result.scores)


def test_from_python(folder: Path) -> None:
    config = rcnn.override(rcnn.model_config("mask_rcnn_compact"), [*MODEL, *OWN])
    lines: list[str] = []

    def train(steps: int, *, resume: bool) -> None:
        settings = [*BRIEF, f"train.steps={steps}"]
        run = rcnn.train(config, "data", "run", overrides=settings, resume=resume, log=lines.append)
        assert run.finished

    train(1, resume=False)
    train(2, resume=True)  # the user's own config is allowed to name code
    assert "resuming run at step 1" in lines
    record = json.loads((folder / "run" / "config.json").read_text())
    assert record["started_from"] == "config:mask_rcnn_compact"
    assert record["model"]["backbone"] == {"kind": "own", "factory": FACTORY, "arguments": {"width": 20}}
    result = rcnn.Predictor("run/last", allow=FACTORY, device="cpu").predict("photo.png")
    process = forked(predict_to_file, folder)
    process.join(120)
    assert process.exitcode == 0
    fresh = np.load(folder / "fresh.npz")
    assert len(result) > 0
    np.testing.assert_array_equal(fresh["boxes"], result.boxes)
    np.testing.assert_array_equal(fresh["scores"], result.scores)
    evaluation = rcnn.evaluate("run/last", "data", allow=FACTORY)
    assert "bbox" in evaluation.metrics.kinds
    tuned = rcnn.train("run", "data", "tuned", overrides=[*BRIEF, "train.steps=1"], allow=FACTORY, log=lines.append)
    assert tuned.finished
    assert any(line.startswith("transferred") for line in lines)
    with pytest.raises(ValueError, match=f"run: backbone.factory is {FACTORY}"):
        rcnn.train("run", "data", "other", overrides=BRIEF)


def test_a_resumed_run_keeps_its_config(folder: Path) -> None:
    config = rcnn.override(rcnn.model_config("mask_rcnn_compact"), [*MODEL, *OWN])
    rcnn.train(config, "data", "run", overrides=[*BRIEF, "train.steps=1"], log=lambda line: None)
    lines: list[str] = []
    other = rcnn.override(config, "input.max_size=160")
    rcnn.train(other, "data", "run", overrides=["train.steps=2"], resume=True, log=lines.append)
    [warning] = [line for line in lines if "own config" in line]
    assert "warning: the run continues with its own config" in warning
    assert "input.max_size: 128 -> 160" in warning


def test_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "mask_rcnn_compact", "--data", "data", "--output", "run", *MODEL, *BRIEF)
    assert run_rcnn(*words, *OWN, "train.steps=1") == 0
    resume = ("train", "mask_rcnn_compact", "--data", "data", "--output", "run", "--resume", "train.steps=2")
    assert run_rcnn(*resume) == 2
    assert f"run/config.json: backbone.factory is {FACTORY}, code that" in capsys.readouterr().err
    assert run_rcnn(*resume, "--allow", FACTORY) == 0
    for words in (
        ("eval", "run", "--data", "data", "--output", "eval"),
        ("predict", "run", "photo.png", "--output", "found"),
        ("models", "show", "run"),
        ("data", "browse", "data", "--augmented", "--model", "run", "--limit", "1", "--output", "browse"),
        ("train", "run", "--data", "data", "--output", "tuned", "train.steps=1", "train.workers=0"),
    ):
        capsys.readouterr()
        assert run_rcnn(*words) == 2
        assert f"allow it: --allow {FACTORY} on the command line" in capsys.readouterr().err
        assert run_rcnn(*words, "--allow", FACTORY, "--allow", "other.py:make") == 0
    assert run_rcnn("convert", "run/last", "--to", "detectron2", "--output", "model.pkl") == 2
    assert "only modules of rcnn can be exported" in capsys.readouterr().err
