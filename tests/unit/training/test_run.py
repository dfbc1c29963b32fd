"""Whole runs on a tiny data set: resumed bit for bit, the learning rate told, bad requests refused with a cure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rcnn.training.log import read_log
from rcnn.training.run import choose_splits, run_training, starting_config
from rcnn.weights.checkpoint import load_checkpoint, load_detector
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

ROOT = Path(__file__).resolve().parents[3]
BRIEF = ("train.steps=4", "train.batch_size=2", "train.workers=0", "train.log_every=1", "train.warmup_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images to learn, two to evaluate on."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(64, 96))


def run(data: Path, output: Path, *words: str, **others: object) -> list[str]:
    """A run of the tiny model on the CPU; what it said."""
    said: list[str] = []
    overrides = [*(() if others.get("resume") else (*TINY_MODEL, *BRIEF)), *words]
    run_training("mask_rcnn_compact", data, output, overrides, device="cpu", say=said.append, **others)  # type: ignore[arg-type]
    return said


def test_a_run_leaves_what_it_promises(data: Path, tmp_path: Path) -> None:
    said = "\n".join(run(data, tmp_path / "run", "train.accumulate=3", "train.lr=0.04"))
    assert "learning rate 0.015 = 0.04 x 6 images a step / 16" in said
    assert "4 steps are 4.8 passes" in said
    assert "learning 5 images (train), evaluated on 2 (val)" in said
    assert "steps=4" in said
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "log.jsonl", "curve.html", "last"} <= names
    assert names <= {"config.json", "log.jsonl", "curve.html", "curve.png", "last", "best"}
    for name in names & {"best", "last"}:
        checkpoint = load_checkpoint(tmp_path / "run" / name)
        assert checkpoint.classes == CLASSES
        assert checkpoint.config.num_classes == 2
        assert checkpoint.provenance["started_from"] == "mask_rcnn_compact"
        assert checkpoint.provenance["train"]["lr"] == 0.04
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [0, 1, 2, 3]
    assert [line["lr"] for line in lines if "lr" in line][2:] == pytest.approx([0.015, 0.0015])  # milestone at 2.67
    assert sum("bbox_AP" in line and "segm_AP50" in line for line in lines) == 1
    page = (tmp_path / "run" / "curve.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    load_detector(tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_is_resumed_bit_for_bit(data: Path, tmp_path: Path, workers: int) -> None:
    words = [f"train.workers={workers}", "train.jitter=0.3", "train.scales=[64,80]", "train.checkpoint_every=3"]
    words += ["train.steps=6", "train.accumulate=2", "train.milestones=[1]"]
    run(data, tmp_path / "whole", *words)
    # the first three steps; the rest as a crash leaves it: last/ of step 3, and a longer log
    run(data, tmp_path / "broken", *words)
    kept = tmp_path / "kept"
    run(data, kept, *[word for word in words if word != "train.steps=6"], "train.steps=3")
    record = json.loads((kept / "config.json").read_text())
    assert record["train"]["steps"] == 3
    run(data, kept, "train.steps=6", resume=True)
    whole, resumed = (load_checkpoint(path / "last").state for path in (tmp_path / "whole", kept))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    again = load_checkpoint(tmp_path / "broken" / "last").state
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    losses = [
        [line["loss"] for line in read_log(path / "log.jsonl") if "loss" in line] for path in (tmp_path / "whole", kept)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_leaves_a_run_that_resumes(data: Path, tmp_path: Path, group: bool) -> None:
    """SIGINT to the process, and to its whole group with the workers in it, as a terminal sends it."""
    output = tmp_path / "run"
    words = [*TINY_MODEL, *BRIEF, "train.steps=400", "train.workers=2", "train.checkpoint_every=1000"]
    command = [sys.executable, "-m", "rcnn.cli.main", "train", "mask_rcnn_compact", "--data", str(data)]
    command += ["--output", str(output), "--val-split", "none", "--device", "cpu", *words]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 120
        while len(read_log(output / "log.jsonl")) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        if group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume goes on from there" in err
    done = len(read_log(output / "log.jsonl"))
    assert f"stopped after {done} steps" in out
    assert 2 <= done < 400
    run(data, output, f"train.steps={done + 2}", resume=True)
    assert [line["step"] for line in read_log(output / "log.jsonl")] == list(range(done + 2))


def test_a_checkpoint_is_fine_tuned_on_other_classes(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "first", "train.steps=1")
    other = write_tiny_coco(tmp_path / "other", {"train": 2}, size=(64, 96))
    path = other / "annotations" / "instances_train.json"
    annotations = json.loads(path.read_text())
    annotations["categories"] = [{"id": 10, "name": "square"}, {"id": 20, "name": "ring"}, {"id": 30, "name": "star"}]
    path.write_text(json.dumps(annotations))
    said: list[str] = []
    words = ["train.steps=1", "train.batch_size=1", "train.workers=0", "train.lr=0"]
    run_training(str(tmp_path / "first"), other, tmp_path / "second", words, device="cpu", say=said.append)
    assert any("transferred" in line for line in said)
    recorded = json.loads((tmp_path / "second" / "config.json").read_text())["train"]
    milder = {name: recorded[name] for name in ("optimizer", "clip_norm", "reference_batch", "lr", "steps")}
    assert milder == {"optimizer": "adamw", "clip_norm": 5.0, "reference_batch": 2, "lr": 0, "steps": 1}
    before, after = (load_checkpoint(tmp_path / name / "last") for name in ("first", "second"))
    assert after.classes == ("square", "ring", "star")
    name = "fpn.lateral2.weight"
    assert torch.equal(before.state[name], after.state[name])
    assert torch.equal(before.state["box_head.logits.weight"][0], after.state["box_head.logits.weight"][0])  # square


def test_what_cannot_be_asked_for_is_refused_with_a_cure(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=r"train\.stps.*train\.steps"):
        run(data, output, "train.stps=3")
    with pytest.raises(ValueError, match=r"rpn\.nms_io.*rpn\.proposals\.nms_iou"):
        run(data, output, "rpn.nms_io=0.5")
    with pytest.raises(ValueError, match="num_classes=7"):
        run(data, output, "num_classes=7")
    with pytest.raises(ValueError, match=r"train\.best=keypoints\.AP"):
        run(data, output, "train.best=keypoints.AP")
    with pytest.raises(FileNotFoundError, match="leave --resume out"):
        run(data, output, resume=True)
    assert not output.exists()
    run(data, output, "train.steps=1", splits=("", "none"))
    with pytest.raises(ValueError, match="--resume goes on with it"):
        run(data, output)


def test_a_run_killed_before_its_first_checkpoint_can_begin_again(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.json").write_text("{}")
    (output / "log.jsonl").write_text('{"step": 0, "loss": 99.0}\n')
    run(data, output, "train.steps=1", splits=("", "none"))
    assert [line["loss"] < 99 for line in read_log(output / "log.jsonl")] == [True]


def test_splits_are_found_by_their_names(data: Path, tmp_path: Path) -> None:
    assert choose_splits(data, ("", "")) == ("train", "val")
    assert choose_splits(data, ("", "none")) == ("train", "none")
    assert choose_splits(data, ("val", "train")) == ("val", "train")
    odd = write_tiny_coco(tmp_path / "odd", {"first": 1, "second": 1}, size=(64, 96))
    with pytest.raises(ValueError, match=r"first, second.*--split"):
        choose_splits(odd, ("", ""))


def test_random_weights_under_frozen_norms_are_told(data: Path, tmp_path: Path) -> None:
    tiny = "input.min_size=64 rpn.proposals.post_nms_train=20 box.sampling.batch_size=8"
    tiny += " train.steps=1 train.batch_size=1 train.workers=0"
    said: list[str] = []
    arguments = {"splits": ("", "none"), "device": "cpu", "say": said.append}
    run_training("faster_rcnn_r50_fpn", data, tmp_path / "run", tiny.split(), **arguments)  # type: ignore[arg-type]
    assert sum("weights are random" in line and "rcnn convert" in line for line in said) == 1
    assert not any("weights are random" in line for line in run(data, tmp_path / "other", splits=("", "none")))


@pytest.mark.parametrize(
    ("model", "said"), [("mask_rcnn_compat", "mask_rcnn_compact"), ("runs/gone", "runs/gone does not exist")]
)
def test_a_model_that_is_not_there(model: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        starting_config(model)
