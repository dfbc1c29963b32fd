"""Whole runs on a tiny data set: their files, their plans, refused requests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.data.messages import counted
from rcnn.outputs import OutputFolder
from rcnn.training.log import read_log
from rcnn.training.request import RunRequest
from rcnn.training.run_data import choose_splits
from rcnn.training.starting import starting_config
from rcnn.weights.checkpoint import load_checkpoint, load_detector
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco
from tests.unit.training import runs

ROOT = Path(__file__).resolve().parents[3]
BRIEF = ("train.steps=4", "train.batch_size=2", "train.workers=0", "train.log_every=1", "train.warmup_steps=2")
BRIEF += ("train.evaluate_every=0",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(64, 96))


def run(
    data: Path,
    output: Path,
    *words: str,
    resume: bool = False,
    splits: tuple[str, str] = ("", ""),
    charts: bool = False,
) -> list[str]:
    """A run of the tiny model on the CPU; returns its output lines."""
    lines: list[str] = []
    overrides = [*(() if resume else (*TINY_MODEL, *BRIEF)), *words]
    runs.run("mask_rcnn_compact", data, output, overrides, resume=resume, splits=splits, lines=lines, charts=charts)
    return lines


def test_a_run_writes_its_files(data: Path, tmp_path: Path) -> None:
    said = "\n".join(
        run(data, tmp_path / "run", "train.accumulate=3", "train.lr=0.04", "train.trackers=[]", charts=True)
    )
    assert "learning rate 0.015 = 0.04 x 6 images per step / 16" in said
    assert "4 steps = 4.8 epochs" in said
    assert "training on 5 images with 10 objects (train), evaluated on 2 images with 4 objects (val)" in said
    assert "steps=4" in said
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "log.jsonl", "curve.html", "last"} <= names
    assert names <= {
        ".rcnn-files",
        "config.json",
        "log.jsonl",
        "curve.html",
        "curve.png",
        "report.html",
        "pictures",
        "last",
        "best",
    }
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
    words += ["train.accumulate=2", "train.milestones=[1]"]
    run(data, tmp_path / "whole", *words, "train.steps=5", splits=("train", "none"))
    kept = tmp_path / "kept"
    run(data, kept, *words, "train.steps=3", splits=("train", "none"))
    record = json.loads((kept / "config.json").read_text())
    assert record["train"]["steps"] == 3
    run(data, kept, "train.steps=5", resume=True)
    whole, resumed = (load_checkpoint(path / "last").state for path in (tmp_path / "whole", kept))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    losses = [
        [line["loss"] for line in read_log(path / "log.jsonl") if "loss" in line] for path in (tmp_path / "whole", kept)
    ]
    assert losses[0] == losses[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_leaves_a_run_that_resumes(data: Path, tmp_path: Path, group: bool) -> None:
    """SIGINT to the process, and to its whole group with the workers in it, as a terminal sends it."""
    from tests.faults.running_commands import running

    output = tmp_path / "run"
    own = ("train.steps=400", "train.batch_size=2", "train.workers=2", "train.checkpoint_every=1000")
    words = [*TINY_MODEL, *own, *BRIEF[3:]]
    options = ("--data", data, "--output", output, "--val-split", "none", "--device", "cpu")
    with running("train", "mask_rcnn_compact", *options, *words) as process:
        until = time.monotonic() + 120
        while len(read_log(output / "log.jsonl")) < 2 and not process.has_ended() and time.monotonic() < until:
            time.sleep(0.1)
        if group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGINT)
        status, out, err = process.wait(60)
    assert status == 130, err
    assert "Traceback" not in err
    done = len(read_log(output / "log.jsonl"))
    again = f"rcnn train mask_rcnn_compact --data {data} --output {output} --resume --device cpu"
    assert (out + err).count("stopped") == 1
    assert f"stopped by SIGINT after {done} of 400 steps; to continue: {again}\n" in out
    assert 2 <= done < 400
    assert f"{done} of 400 steps, stopped by SIGINT." in (output / "report.html").read_text(encoding="utf-8")
    run(data, output, f"train.steps={done + 2}", resume=True)
    assert [line["step"] for line in read_log(output / "log.jsonl")] == list(range(done + 2))


def test_a_checkpoint_is_fine_tuned_on_other_classes(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "first", "train.steps=1")
    other = write_tiny_coco(tmp_path / "other", {"train": 2}, size=(64, 96))
    path = other / "annotations" / "instances_train.json"
    annotations = json.loads(path.read_text())
    annotations["categories"] = [{"id": 10, "name": "square"}, {"id": 20, "name": "ring"}, {"id": 30, "name": "star"}]
    path.write_text(json.dumps(annotations))
    lines: list[str] = []
    words = ["train.steps=1", "train.batch_size=1", "train.workers=0", "train.lr=0"]
    runs.run(str(tmp_path / "first"), other, tmp_path / "second", words, lines=lines)
    assert any("transferred" in line for line in lines)
    recorded = json.loads((tmp_path / "second" / "config.json").read_text())["train"]
    milder = {name: recorded[name] for name in ("optimizer", "clip_norm", "reference_batch", "lr", "steps")}
    assert milder == {"optimizer": "adamw", "clip_norm": 5.0, "reference_batch": 2, "lr": 0, "steps": 1}
    before, after = (load_checkpoint(tmp_path / name / "last") for name in ("first", "second"))
    assert after.classes == ("square", "ring", "star")
    name = "fpn.lateral2.weight"
    assert torch.equal(before.state[name], after.state[name])
    assert torch.equal(before.state["box_head.logits.weight"][0], after.state["box_head.logits.weight"][0])  # square


def test_an_impossible_request_is_refused_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=r"train\.stps.*train\.steps"):
        run(data, output, "train.stps=3")
    with pytest.raises(ValueError, match=r"rpn\.nms_io.*rpn\.proposals\.nms_iou"):
        run(data, output, "rpn.nms_io=0.5")
    with pytest.raises(ValueError, match="num_classes=7"):
        run(data, output, "num_classes=7")
    with pytest.raises(ValueError, match=r"train\.best=keypoints\.AP"):
        run(data, output, "train.best=keypoints.AP")
    assert not output.exists()
    run(data, output, "train.steps=1", splits=("", "none"))
    with pytest.raises(ValueError, match=r"continue it with resume=True \(--resume\)"):
        run(data, output)


def test_a_model_with_masks_is_not_trained_on_boxes_alone(data: Path, tmp_path: Path) -> None:
    boxes = shutil.copytree(data, tmp_path / "boxes")
    file = boxes / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(tables))
    message = (
        r"has boxes without outlines, but mask_rcnn_compact is trained on masks: train faster_rcnn_compact, or ann"
    )
    with pytest.raises(ValueError, match=message):
        run(boxes, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_best_is_chosen_by_boxes_where_masks_cannot_be_evaluated(data: Path, tmp_path: Path) -> None:
    boxes = shutil.copytree(data, tmp_path / "boxes")
    file = boxes / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(tables))
    with pytest.raises(ValueError, match=r"train\.best=segm\.AP cannot be measured: masks are not evaluated"):
        run(boxes, tmp_path / "run", "train.best=segm.AP")
    assert not (tmp_path / "run").exists()
    lines = run(boxes, tmp_path / "run", "train.steps=1")
    assert sum(line.startswith("warning: masks are not evaluated") for line in lines) == 1


def test_an_image_that_cannot_be_evaluated_is_reported_during_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(data, tmp_path / "damaged")
    (damaged / "val" / "val_2.png").write_bytes(b"")
    run(damaged, tmp_path / "run", "train.steps=1")
    said = capsys.readouterr().err
    assert "warning: " in said.split("val_2.png")[0]
    assert "warning: split val: 1 of 2 images could not be evaluated and counts as having no detections" in said


def test_splits_are_found_by_their_names(data: Path, tmp_path: Path) -> None:
    request = RunRequest(model="mask_rcnn_compact", data=data)
    assert choose_splits(request)[:2] == ("train", ("val",))
    none = replace(request, val_splits=("none",))
    assert choose_splits(none) == ("train", (), {"split": "its name starts with 'train'"})
    assert choose_splits(replace(request, split="val", val_splits=("train", "val"))) == ("val", ("train", "val"), {})
    for wrong, message in ((("val", "val"), "has val twice"), (("none", "val"), "is none and also val")):
        with pytest.raises(ValueError, match=message):
            choose_splits(replace(request, val_splits=wrong))
    odd = write_tiny_coco(tmp_path / "odd", {"first": 1, "second": 1}, size=(64, 96))
    with pytest.raises(ValueError, match=r"first, second.*--split"):
        choose_splits(replace(request, data=odd))


def test_random_weights_under_frozen_norms_are_reported(data: Path, tmp_path: Path) -> None:
    words = "input.min_size=64 rpn.proposals.post_nms_train=20 box.sampling.batch_size=8"
    words += " train.steps=1 train.batch_size=1 train.workers=0"
    lines: list[str] = []
    runs.run(
        "faster_rcnn_r50_fpn", data, tmp_path / "run", words.split(), splits=("", "none"), weights="none", lines=lines
    )
    assert sum("random weights, but" in line and "rcnn convert" in line for line in lines) == 1
    assert not any("random weights, but" in line for line in run(data, tmp_path / "other", splits=("", "none")))


@pytest.mark.parametrize(
    ("model", "message"), [("mask_rcnn_compat", "mask_rcnn_compact"), ("runs/gone", "runs/gone does not exist")]
)
def test_an_unknown_model(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        starting_config(model)


def test_a_plan_gives_reasons_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main_status = rcnn(
        "train", "mask_rcnn_compact", "--data", data, "--dry-run", "train.lr=0.04", "train.optimizer=adamw"
    )
    assert main_status == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "split 5 images with 10 objects (train) (its name starts with 'train')" in lines
    assert "train.lr 0.04 (given)" in lines
    assert not any(line.startswith(("train.best ", "box.selection.max_detections ")) for line in lines)
    listed = " ".join(lines)
    model, training = listed.split("defaults of the model: ")[1].split("defaults of training: ")
    assert " box.selection.max_detections=100 " in model
    assert "num_classes" not in model
    assert " train.best= " in training
    assert " train.trackers=('auto',) " in training
    assert "train.steps 1667 (2,667 epochs of 5 images with 2.0 objects each, 8 per step)" in lines
    assert "nothing was written (--dry-run)" in lines
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_work_are_refused_in_the_plan(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "mask_rcnn_compact", "--data", data, "--output", tmp_path / "run", "--dry-run"]
    assert rcnn(*words, "box.score_threshold=2") == 2
    assert "box.score_threshold is 2.0; expected 0 to 1" in capsys.readouterr().err
    for word, message in {
        "rpn.anchors.sizes=[]": "rpn.anchors.sizes",
        "Train.steps=1": "no setting 'Train.steps'; expected train.NAME=VALUE",
        "train.jitter=5": "train.jitter is 5.0; expected 0 to 1",
        "train.workers=100000": "train.workers is 100000; expected 0 to 512",
        "train.shard=true": "mask_rcnn_compact has backbone.kind=compact: leave train.shard out",
    }.items():
        assert rcnn(*words, word) == 2
        assert message in capsys.readouterr().err
    assert rcnn(*words, "train.steps=5", "--resume", "train.batch_size=auto") == 0
    lines = capsys.readouterr().out
    assert re.search(r"train\.batch_size +auto: the largest that fits in the memory", lines)
    assert re.search(r"train\.warmup_steps.*\b1\b.*20% of the steps", lines)
    assert f"warning: {tmp_path / 'run'} has no checkpoint to resume from: this is a new run" in lines
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--split", "--output", "--data", "--device"])
def test_an_option_that_is_given_twice_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    words = ["--data", data, "--output", tmp_path / "run"]
    again = [option, "a"] if option in ("--data", "--output") else [option, "a", option, "b"]
    assert rcnn("train", "mask_rcnn_compact", *words, *again) == 2
    assert f"{option} is given 2 times" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "last", "curve.html"])
def test_a_folder_with_files_of_the_user_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"lr": 1}')
    with pytest.raises(FileExistsError, match=f"contains {name}, which rcnn did not write"):
        run(data, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, '{"lr": 1}')]


def test_a_file_of_the_user_beside_those_of_the_run_is_kept(data: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl.new").write_text("mine")
    run(data, tmp_path, "train.steps=1")
    assert (tmp_path / "log.jsonl.new").read_text() == "mine"
    assert len(read_log(tmp_path / "log.jsonl")) > 0


def test_a_folder_in_use_is_refused(data: Path, tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "run") as folder:
        for _ in range(2):  # before its first checkpoint, and after it
            with pytest.raises(BlockingIOError, match="in use by "):
                run(data, tmp_path / "run")
            folder.adopt("last").mkdir(exist_ok=True)
            (tmp_path / "run" / "last" / "model.safetensors").touch()


@pytest.mark.parametrize("name", ["last", "best", "config.json"])
def test_a_run_is_not_written_through_a_link(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=f"{name} is a symbolic link, which rcnn neither follows nor replace"):
            run(data, tmp_path / "run", resume=resume)


def test_a_set_without_objects_is_refused(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    path = copy / "annotations" / "instances_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match="--allow-empty"):
        run(copy, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@contextmanager
def threads_of(number: int) -> Iterator[None]:
    """Within the block torch uses `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_deterministic_runs_have_equal_weights(data: Path, tmp_path: Path) -> None:
    """With any number of worker processes; with another number of threads they are only close."""
    before = torch.are_deterministic_algorithms_enabled()
    weights: list[dict[str, torch.Tensor]] = []
    for workers, threads in ((0, 1), (2, 1), (0, 2)):
        words = ("train.steps=2", "train.deterministic=true", f"train.workers={workers}", "train.jitter=0.2")
        folder = tmp_path / f"{workers}-{threads}"
        with threads_of(threads):
            lines = run(data, folder, *words, splits=("train", "none"))
        said = f"train.deterministic=true: every run with {counted(threads, 'thread')} on this hardware gives the same"
        assert any(said in line for line in lines)
        weights.append(load_checkpoint(folder / "last").state)
    assert torch.are_deterministic_algorithms_enabled() == before
    one, same, other = weights
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-3)


def test_a_replay_with_arguments_that_it_would_ignore_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "mask_rcnn_compact", "--replay", tmp_path / "nonfinite.pt", "--device", "cpu", "--resume"]
    assert rcnn(*words, "--data", tmp_path, "train.steps=4") == 2
    assert "leave MODEL_OR_CHECKPOINT, --data, KEY.SUB=VALUE, --resume out" in " ".join(capsys.readouterr().err.split())
