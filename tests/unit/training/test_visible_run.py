"""What a run shows: the terminal view, trackers, RUN/report.html, `rcnn runs`, and the loss on the validation set."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import override

from rcnn.data import Dataset
from rcnn.data.loading import numbered_batches
from rcnn.drawing.run_page import run_page
from rcnn.models import build_detector
from rcnn.outputs.marker import locked_marker
from rcnn.runtime.launch import TYPED, typed_command
from rcnn.training import trackers
from rcnn.training.log import RunLog, read_log
from rcnn.training.pictures import pictures_of, write_pictures
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from rcnn.training.run_table import list_runs
from rcnn.training.settings import TrainConfig
from rcnn.training.surroundings import git_state, run_tables, surroundings
from rcnn.training.trackers import MLflow, Reports, TensorBoard, WandB, chosen_trackers
from rcnn.training.validation_loss import validation_loss
from rcnn.training.view import RunSize, details, speed
from rcnn.weights.checkpoint import load_detector
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training import runs

BRIEF = ("train.steps=2", "train.batch_size=2", "train.workers=0", "train.warmup_steps=1", "train.log_every=1")
SIZE = RunSize(steps=100, images_per_step=4, images=40, device=torch.device("cpu"))


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.calls = list[Any]()

    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        self.calls.append(("start", folder.name, record["model"]["name"]))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, dict(values)))

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(64, 96))


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of two steps and an evaluation after each, also of the loss on the validation set."""
    output = tmp_path_factory.mktemp("runs")
    own = ("train.validation_loss=true", "train.evaluate_every=1", "box.score_threshold=0")
    words = (*TINY_MODEL, *BRIEF, *own)
    runs.run("mask_rcnn_compact", data, output / "first", words, charts=True)
    return output


def test_speed_and_details_by_hand() -> None:
    assert speed(SIZE, 10, 8.0, 2.0) == "5.0 images/s, 25 % waiting for images"
    assert speed(SIZE, 0, 8.0, 2.0) == ""
    losses = {"loss": 1.5, "lr": 0.02, "mask": 1.0, "box_class": 0.5}
    metrics = {"segm_AP": 0.25, "segm_AP50": 1.0, "validation_loss": 2.25}
    epoch, loss, evaluation = details(SIZE, 25, "5.0 images/s", losses, metrics, parts=True)
    assert details(SIZE, 25, "5.0 images/s", losses, metrics, parts=False) == [epoch, evaluation]
    assert re.fullmatch(r"epoch 2\.5, 5\.0 images/s, peak memory \d+\.\d GiB, learning rate 0\.02", epoch)
    assert loss == "loss 1.500 = mask 1.000 + box_class 0.500"
    assert evaluation == "last evaluation: segm AP 0.250, validation loss 2.250"


def test_a_line_without_a_terminal_has_the_epoch_the_learning_rate_and_the_last_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rcnn.training.log.QUIET", 0)
    with RunLog(tmp_path / "log.jsonl", steps=100, size=SIZE) as log:
        log.write(step=0, loss=2.0, lr=0.1, mask=2.0)
        log.write(step=0, bbox_AP=0.125)
        log.advance(0)
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"step 1 of 100, loss 2\.000, about \S+ left, epoch 0\.1, \S+ images/s, 0 % waiting for images, "
        r"peak memory \S+ GiB, learning rate 0\.1, last evaluation: bbox AP 0\.125",
        line,
    )


def test_a_terminal_shows_progress_losses_and_the_last_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with RunLog(tmp_path / "log.jsonl", steps=3, size=SIZE) as log:
        with log.waiting():
            pass
        log.write(step=0, loss=2.0, lr=0.1, mask=2.0)
        log.advance(0)
        log.write(step=0, bbox_AP=0.125)
        log.console.print(log._shown())
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    for part in ("1/3", "epoch 0.1", "images/s", "loss 2.000 = mask 2.000", "last evaluation: bbox AP 0.125"):
        assert part in shown


def test_trackers_get_the_numbers_of_the_log_and_one_that_fails_is_left_out(tmp_path: Path) -> None:
    class Broken(Recorder):
        @override
        def log(self, step: int, values: Mapping[str, float]) -> None:
            raise ConnectionError("no route to host")

    good, broken, warnings = Recorder(), Broken(), list[str]()
    reports = Reports([broken, good], warnings.append)
    reports.start(tmp_path / "run", {"model": {"name": "m"}}, 0)
    with RunLog(tmp_path / "log.jsonl", steps=3, reports=reports) as log:
        log.write(step=0, loss=2.0, lr=0.1)
        log.write(step=1, bbox_AP=0.5, segm_AP=None)
    assert good.calls == [("start", "run", "m"), (0, {"loss": 2.0, "lr": 0.1}), (1, {"bbox_AP": 0.5}), "close"]
    assert broken.calls == [("start", "run", "m")]
    assert warnings == ["warning: Broken failed (no route to host) and gets no more values; the run continues"]


def test_wandb_and_mlflow_are_called_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: a run that is resumed continues what it reported to before."""
    calls = list[Any]()

    def init(**given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(id="w1", log=calls.append, define_metric=define, finish=lambda: calls.append("finish"))

    def define(name: str, *, hidden: bool = False, step_metric: str = "") -> None:
        assert (name, hidden, step_metric) in {("step", True, ""), ("*", False, "step")}

    def log(values: Mapping[str, float], step: int) -> None:
        calls.append((values, step))

    def start_run(run_id: str | None, run_name: str) -> SimpleNamespace:
        calls.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="m1"))

    mlflow = SimpleNamespace(
        start_run=start_run, log_params=calls.append, log_metrics=log, end_run=lambda: calls.append("end")
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    record = {"model": {"name": "m"}, "data": "d", "train": {"lr": 0.1}}
    for kind in (WandB, MLflow):
        for _ in range(2):
            tracker = kind()
            tracker.start(tmp_path, record, 0)
            tracker.log(3, {"loss": 1.0})
            tracker.close()
    started = {"project": "rcnn", "name": tmp_path.name, "config": record, "resume": "allow"}
    numbers = ({"loss": 1.0}, 3)
    assert calls == [
        *(started | {"id": None}, {"step": 3, "loss": 1.0}, "finish"),
        *(started | {"id": "w1"}, {"step": 3, "loss": 1.0}, "finish"),
        *((None, tmp_path.name), {"model": "m", "data": "d", "train.lr": 0.1}, numbers, "end"),
        *(("m1", tmp_path.name), numbers, "end"),
    ]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs rcnn[tensorboard]"
    )
    tracker = TensorBoard()
    tracker.start(tmp_path, {}, 0)
    for step, loss in ((3, 1.5), (4, 1.0)):
        tracker.log(step, {"loss": loss})
    tracker.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(3, 1.5), (4, 1.0)]


def test_tensorboard_hides_the_values_of_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs rcnn[tensorboard]"
    )
    for first, values in ((0, {0: 1.0, 1: 2.0, 2: 3.0}), (2, {2: 4.0})):
        tracker = TensorBoard()
        tracker.start(tmp_path, {}, first)
        for step, loss in values.items():
            tracker.log(step, {"loss": loss})
        tracker.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 1.0), (1, 2.0), (2, 4.0)]


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        assert name == "wandb"

    monkeypatch.setattr(importlib.util, "find_spec", not_found)
    with pytest.raises(ValueError, match=r"train\.trackers: wandb is not installed; run: pip install 'rcnn\[wandb\]'"):
        chosen_trackers(["wandb"])


def test_tensorboard_is_written_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorboard", "mlflow"}

    def find(name: str) -> SimpleNamespace | None:
        return SimpleNamespace(origin=name) if name in installed else None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert TrainConfig().trackers == ("auto",)
    assert chosen_trackers(["auto"]) == ["tensorboard"]
    assert chosen_trackers(["mlflow", "auto", "tensorboard"]) == ["tensorboard", "mlflow"]
    assert chosen_trackers([]) == []
    installed.clear()
    assert chosen_trackers(["auto"]) == []


def test_a_folder_of_earlier_runs_is_no_installed_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb itself makes the folder wandb/ where a run is started."""
    (tmp_path / "rcnn_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("rcnn_tracker") is not None
    assert not trackers._is_installed("rcnn_tracker")
    assert trackers._is_installed("json")


def test_the_page_of_a_run(folder: Path) -> None:
    page = (folder / "first/report.html").read_text(encoding="utf-8")
    for part in (
        "<svg",
        "Evaluations",
        "bbox AP50",
        "train.batch_size",
        "sha256",
        "versions",
        "host",
        "git",
        "2 of 2 steps, finished.",
        "processes",
    ):
        assert part in page, part


def test_the_same_validation_images_are_drawn_at_each_evaluation(folder: Path, data: Path) -> None:
    run = folder / "first"
    drawn = sorted((run / "pictures").rglob("*"))
    files = [path.relative_to(run).as_posix() for path in drawn if path.is_file()]
    assert files == [f"pictures/{image}/step-{step}.jpg" for image in ("1-val_1", "2-val_2") for step in (1, 2)]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f'src="{path}"' in page for path in files)
    both = np.asarray(Image.open(run / files[0]).convert("RGB"), dtype=np.float64)
    assert both.shape == (64, 2 * 96, 3)
    photo = np.asarray(Image.open(data / "val/val_1.png").convert("RGB"), dtype=np.float64)
    for half in (both[:, :96], both[:, 96:]):  # the photo, apart from what is drawn on it
        assert np.corrcoef(half.mean(-1).ravel(), photo.mean(-1).ravel())[0, 1] > 0.5
    for step in ("3", "10", "best"):  # the last is a copy of the user
        (run / "pictures/1-val_1" / f"step-{step}.jpg").write_bytes(b"")
    assert [step for step, _ in pictures_of(run / "pictures")["1-val_1"]] == [1, 2, 3, 10]
    assert pictures_of(run / "none") == {}


def test_pictures_of_images_with_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Linux allows any bytes in a file name; Python reads those that are not UTF-8 as lone surrogates."""
    target = {"boxes": torch.tensor([[4.0, 5, 40, 30]]), "labels": torch.tensor([1]), "image_id": "f\udcfcr"}
    dataset = Dataset.from_torch([(torch.zeros(3, 48, 64, dtype=torch.uint8), target)], classes=["square"])
    words = (*(word for word in TINY_MODEL if not word.startswith("mask.")), *BRIEF)
    plan = plan_training(
        RunRequest(model="faster_rcnn_compact", data=dataset, validation=dataset, overrides=words, device="cpu")
    )
    write_pictures(build_detector(plan.config), dataset, plan, tmp_path / "pictures", 1)
    [(name, [(step, path)])] = pictures_of(tmp_path / "pictures").items()
    assert (name, step) == ("1-image f?r", 1)
    page = run_page("title", [], [], {}, lead="", pictures={name: [(step, path)]})
    assert 'src="pictures/1-image%20f%3Fr/step-1.jpg"' in page


def test_an_image_of_another_size_than_annotated_is_not_drawn(tmp_path: Path) -> None:
    """Its ground truth would be in the wrong place."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 2}, size=(48, 64))
    Image.new("RGB", (32, 24)).save(data / "val/val_1.png")
    words = (*TINY_MODEL, *BRIEF)
    plan = plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=words, device="cpu"))
    write_pictures(build_detector(plan.config), plan.validations[0], plan, tmp_path / "pictures", 1)
    assert list(pictures_of(tmp_path / "pictures")) == ["2-val_2"]


def test_the_page_of_a_run_names_the_checkpoint_that_it_started_from(data: Path) -> None:
    request = RunRequest(model="mask_rcnn_compact", data=data, overrides=TINY_MODEL, device="cpu")
    plan = plan_training(request, log=lambda line: None)
    assert run_tables(plan)["Run"]["weights"] == "random"
    fine_tuned = replace(plan, request=replace(request, model="runs/a/best"))
    assert run_tables(fine_tuned)["Run"]["weights"] == "runs/a/best"


@pytest.mark.parametrize(
    ("argv", "typed", "expected"),
    [
        (["/venv/bin/rcnn", "train", "my model"], "", "rcnn train 'my model'"),
        (["/venv/rcnn/__main__.py", "train"], "", "python -m rcnn train"),
        (["/venv/rcnn/__main__.py", "train"], "rcnn train --devices 2", "rcnn train --devices 2"),
    ],
)
def test_the_command_is_the_one_that_was_typed(
    argv: list[str], typed: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv(TYPED, typed)
    assert typed_command() == expected


def test_the_table_of_runs(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    [row] = list_runs(folder)
    lines = read_log(folder / "first/log.jsonl")
    assert (row.folder, row.model, row.step, row.steps, row.state) == ("first", "mask_rcnn_compact", 2, 2, "finished")
    assert row.loss == [line["loss"] for line in lines if "loss" in line][-1]
    assert row.mask == next(line["segm_AP"] for line in lines if "segm_AP" in line)
    record = json.loads((folder / "first/config.json").read_text())
    (tmp_path / "early").mkdir()
    (tmp_path / "early/config.json").write_text(
        json.dumps(record | {"train": record["train"] | {"steps": 18, "patience": 2}})
    )
    for step, state in ((7, "stopped 44 %"), (16, "early")):  # the learning rate decays for the last time at 16 of 18
        (tmp_path / "early/log.jsonl").write_text(json.dumps({"step": step, "segm_AP": 0.5, "since_best": 2}) + "\n")
        assert [row.state for row in list_runs(tmp_path)] == [state]
    (tmp_path / "early/log.jsonl").write_text(json.dumps({"step": 7, "segm_AP": 1.0}) + "\n")
    (tmp_path / "early/failed.txt").write_text("not enough memory\nlower it\n")
    assert [row.state for row in list_runs(tmp_path)] == ["stopped 44 %"]  # a file of the user
    (tmp_path / "early/.rcnn-files").write_text('{"file": "failed.txt", "sha256": ""}\n')
    assert [(row.state, row.failure) for row in list_runs(tmp_path)] == [("failed 44 %", "not enough memory")]
    assert rcnn("runs", tmp_path) == 0
    assert "\n       failed: not enough memory\n" in capsys.readouterr().out
    with locked_marker(tmp_path / "early"):
        assert [row.state for row in list_runs(tmp_path)] == ["running 44 %"]
        log = (tmp_path / "early/log.jsonl").rename(tmp_path / "early/kept")
        assert [row.state for row in list_runs(tmp_path)] == ["starting"]
        log.rename(tmp_path / "early/log.jsonl")
    (tmp_path / "early/failed.txt").unlink()
    assert rcnn("runs", tmp_path) == 0
    heading, line = capsys.readouterr().out.splitlines()[:2]
    assert line[heading.index(" mask") :].startswith("1.000")  # in its column, with its first digit
    assert rcnn("runs", folder) == 0
    assert re.search(r"^first +mask_rcnn_compact +2 +finished", capsys.readouterr().out, re.MULTILINE)
    assert rcnn("runs", folder, "--json") == 0
    shown = json.loads(capsys.readouterr().out)[0]
    assert (shown["folder"], shown["state"]) == ("first", "finished")
    for name, value in {"steps": None, "patience": "4"}.items():  # damaged records do not hide the others
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(record | {"train": record["train"] | {name: value}}))
    assert [row.folder for row in list_runs(tmp_path)] == ["early"]
    (tmp_path / "none").mkdir()
    assert rcnn("runs", tmp_path / "none") == 0
    assert "no runs in" in capsys.readouterr().err
    assert rcnn("runs", tmp_path / "gone") == 2
    assert "is not a folder; expected one with runs" in capsys.readouterr().err


def test_the_loss_on_the_validation_set(folder: Path, data: Path) -> None:
    """It is the mean loss of the saved model on both images, without augmentation and with fixed norms."""
    lines = read_log(folder / "first/log.jsonl")
    logged = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
    # which validation does not use
    words = (*TINY_MODEL, *BRIEF, "train.flip=1", "train.jitter=0.5", "train.batch_size=3")
    plan = plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=words, device="cpu"))
    detector = load_detector(folder / "first/last")[0]
    plain = TrainConfig(batch_size=1, flip=0.0)
    batches = numbered_batches(plan.validations[0], plan.config.input, plain)
    expected = list[float]()
    for number in range(2):
        batch = batches.make(number)
        with torch.no_grad():
            losses = detector.eval().losses(batch.images, batch.targets, torch.tensor([0, number]))
        expected.append(sum(value.item() for value in losses.values()))
    assert logged == pytest.approx(sum(expected) / 2, rel=1e-4)
    again = validation_loss(detector.train(), plan.validations[0], plan, plan.processes)
    assert again == pytest.approx(logged, rel=1e-4)
    assert detector.training


def test_surroundings_name_command_host_and_git(tmp_path: Path) -> None:
    found = surroundings(torch.device("cpu"))
    assert set(found) == {"folder", "date", "host", "device", "versions", "git"}
    assert f"torch {torch.__version__}" in found["versions"]
    assert git_state(tmp_path) == "no repository"
