"""`rcnn.train` as a function: the run it writes, and its warnings about faulty data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import rcnn
from rcnn.runtime.in_flight import ERROR_FILE, IN_FLIGHT
from rcnn.runtime.launch import FailedWhileStoppingError, ProcessFailedError
from rcnn.training.request import RunRequest
from rcnn.training.saver import Outcome
from rcnn.training.state import TrainState
from rcnn.weights.files import WEIGHTS_FILE
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")


def test_a_run_from_python_with_an_evaluation_and_a_warning(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1})
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["annotations"][0]["iscrowd"] = None
    file.write_text(json.dumps(tables))
    lines: list[str] = []
    run = rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=(*TINY_MODEL, *BRIEF), log=lines.append)
    assert (run.folder, run.step, run.finished) == (tmp_path / "run", 1, True)
    assert run.best is not None
    [warning] = [line for line in lines if line.startswith("warning:") and "iscrowd" in line]
    assert "1 annotation has an iscrowd that is neither 0 nor 1 (id 1)" in warning
    with pytest.raises(ValueError, match="refused by strict=True"):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "other", overrides=(*TINY_MODEL, *BRIEF), strict=True)
    assert not (tmp_path / "other").exists()


def test_processes_that_fail_are_started_again_and_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as `max_restarts` says; the folder stays the same."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1})
    calls: list[tuple[bool, Path | None]] = []

    def failing(function: object, request: RunRequest, log: object, *, devices: int) -> rcnn.TrainingRun:
        calls.append((request.resume, request.output))
        raise ProcessFailedError(f"process 1 of {devices} was killed by SIGKILL")

    monkeypatch.setattr("rcnn.training.api.launch_function", failing)
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    with pytest.raises(ValueError, match="process 1 of 3 was killed"):
        rcnn.train(
            "mask_rcnn_compact", data, overrides=TINY_MODEL, device="cpu", devices=3, max_restarts=2, log=lines.append
        )
    folder = Path("runs/train-mask_rcnn_compact-1")
    assert calls == [(False, folder), (True, folder), (True, folder)]
    assert "starting all processes again (1 of 2)" in lines

    def failing_at_a_stop(*_: object, devices: int) -> rcnn.TrainingRun:
        raise FailedWhileStoppingError("last/ cannot be written")

    monkeypatch.setattr("rcnn.training.api.launch_function", failing_at_a_stop)
    lines.clear()
    with pytest.raises(FailedWhileStoppingError):
        rcnn.train(
            "mask_rcnn_compact", data, overrides=TINY_MODEL, device="cpu", devices=3, max_restarts=2, log=lines.append
        )
    assert "starting all processes again (1 of 2)" not in lines, "the user asked to stop"


def own_loop(num_classes: int, workers: int = 0) -> tuple[rcnn.Detector, rcnn.TrainingBatch]:
    """A detector and one batch of the two classes in data/, as in a training loop of the user's own."""
    words = [*TINY_MODEL, f"num_classes={num_classes}"]
    config = rcnn.override(rcnn.model_config("mask_rcnn_compact"), words)
    settings = rcnn.TrainConfig(batch_size=1, workers=workers)
    batches = rcnn.training_batches(rcnn.open_dataset("data", "train"), config.input, settings)
    batch = next(iter(batches))
    batches.close()
    return rcnn.build_detector(config), batch


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_with_too_few_classes_ends_at_its_first_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "data", {"train": 1})
    detector, batch = own_loop(1, workers)
    assert batch.targets.num_classes == 2
    with pytest.raises(ValueError, match=r"has 2 classes, but the model has num_classes=1\. .*num_classes=2"):
        detector.losses(batch.images, batch.targets, torch.tensor(0))
    detector, batch = own_loop(2)
    assert all(loss.isfinite() for loss in detector.losses(batch.images, batch.targets, torch.tensor(0)).values())
    for label in (2, -1):
        wrong = replace(batch.targets, labels=torch.full_like(batch.targets.labels, label), num_classes=None)
        with pytest.raises(ValueError, match=rf"has label {label}, but .* num_classes=2; expected labels 0 to 1"):
            detector.losses(batch.images, wrong, torch.tensor(0))
    padding = replace(batch.targets, labels=torch.where(batch.targets.valid, batch.targets.labels, 99))
    detector.losses(batch.images, padding, torch.tensor(0))  # rows that are not valid do not count


def test_a_seed_is_an_int_or_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "data", {"train": 1})
    detector, batch = own_loop(2)
    expected = detector.losses(batch.images, batch.targets, torch.tensor(3))
    numpys: Any = np.int64(3)
    for seed in (3, numpys):
        assert detector.losses(batch.images, batch.targets, seed) == expected
    wrong: Any = 3.5
    with pytest.raises(TypeError, match="integer"):
        detector.losses(batch.images, batch.targets, wrong)


def test_unknown_masks_are_refused() -> None:
    wrong = cast(Any, "x")
    with pytest.raises(ValueError, match=r"masks='x' is not known; expected None \(boxes only\) or one of 'polygon', "):
        rcnn.TargetOptions(masks=wrong)


def test_settings_as_a_dict_and_a_run_that_exists(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1})
    changes = rcnn.override(rcnn.model_config("mask_rcnn_compact"), TINY_MODEL)
    train = {"train.steps": 1, "train.batch_size": 1, "train.workers": 0, "train.warmup_steps": 0}
    run = rcnn.train(changes, data, tmp_path / "run", overrides=train, val_split="none", log=lambda line: None)
    assert run.step == 1
    with pytest.raises(ValueError, match=r"contains a run .*continue it with resume=True \(--resume\), or choose"):
        rcnn.train(changes, data, tmp_path / "run", overrides=train)
    predictor = rcnn.Predictor(run.folder, overrides={"box.score_threshold": 0.25}, device="cpu")
    assert predictor.config.box.score_threshold == 0.25
    with pytest.raises(ValueError, match=r"no setting 'box\.score_thresold'; did you mean box\.score_threshold"):
        rcnn.Predictor(run.folder, overrides={"box.score_thresold": 0.25})


def test_a_run_is_continued_with_its_own_model_and_data(tmp_path: Path) -> None:
    data, folder = write_tiny_coco(tmp_path / "data", {"train": 1}), tmp_path / "run"
    words = [*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0"]
    rcnn.train("mask_rcnn_compact", data, folder, overrides=words, log=lambda line: None)
    planned = rcnn.plan(output=folder, resume=True, overrides={"train.steps": 3}, log=str)
    assert (planned.values["train.steps"], planned.values["fpn.channels"]) == (3, 16)
    assert {"mask_rcnn_compact (a model)", str(data)} <= set(
        re.findall(r"^(?:model|data) +(.+?)(?: {3}|$)", f"{planned}", re.M)
    )
    run = rcnn.train(output=str(folder), resume=True, overrides={"train.steps": 2}, log=lambda line: None)
    assert (run.folder, run.step) == (folder, 2)
    moved = data.rename(tmp_path / "moved")
    for steps, given in ((2, moved), (3, rcnn.open_dataset(moved, "train"))):  # only the model is the run's
        more = {"train.steps": steps}
        again = rcnn.train(data=given, output=folder, resume=True, overrides=more, log=lambda line: None)
        assert again.step == steps
    said = r"run was trained on a Dataset from Python: pass data= \(and validation=\) again, or give the data \(--data"
    for function in (rcnn.train, rcnn.plan):
        with pytest.raises(ValueError, match=said):
            function(output=folder, resume=True)
    assert rcnn.plan(data=moved, output=folder, resume=True).values["train.steps"] == 3
    call = re.escape(f"rcnn.train(model, data, output={str(tmp_path / 'new')!r})")
    for function in (rcnn.train, rcnn.plan):
        with pytest.raises(ValueError, match=rf"new contains no run to resume; to start one: {call}$"):
            function(output=tmp_path / "new", resume=True)
        with pytest.raises(ValueError, match=r"or the run to continue: rcnn\.train\(output=RUN, resume=True\)"):
            function(resume=True)


def test_a_run_finds_its_data_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also data that were given relative to the working directory; they are still those of the training."""
    write_tiny_coco(tmp_path / "data", {"train": 10}, size=(64, 96))
    monkeypatch.chdir(tmp_path)
    words = [*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0"]
    run = rcnn.train("mask_rcnn_compact", "data", "run", overrides=words, log=lambda line: None)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    found = rcnn.evaluate(tmp_path / run.folder, device="cpu")
    assert len(found.ground_truth["images"]) == 2  # held out
    assert not [line for line in found.warnings if "changed since" in line]
    assert re.search(rf"^data +{tmp_path}/data( |$)", f"{rcnn.plan(output=tmp_path / run.folder, resume=True)}", re.M)
    monkeypatch.chdir(tmp_path)
    request = RunRequest(model="mask_rcnn_compact", data=Path("data"), images="data/train")
    assert request.places == {"data": str(tmp_path / "data"), "images": str(tmp_path / "data" / "train")}
    assert replace(request, images="train").places["images"] == "train"  # within the folder


@pytest.mark.parametrize("given", ["val.txt", Path("val.txt"), ["val.txt"], [Path("val.txt")]])
def test_validation_splits_in_every_form(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[RunRequest] = []

    def note(request: RunRequest, log: object) -> None:
        requests.append(request)

    monkeypatch.setattr("rcnn.training.api._train", note)
    rcnn.train("mask_rcnn_compact", "data", val_split=given)
    assert [one.val_splits for one in requests] == [("val.txt",)]


def test_one_text_is_not_taken_for_its_letters(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1})
    assert rcnn.open_dataset(data, "train", classes="square", ignore_other_classes=True).classes == ("square",)
    detector = rcnn.build_detector(
        rcnn.override(rcnn.model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])
    )
    with pytest.raises(ValueError, match="got 1 class; the detector has 2"):
        rcnn.Predictor(detector, classes="ab")
    with pytest.raises(ValueError, match="classes is the text 'ab'; expected a list of names"):
        rcnn.save_checkpoint(tmp_path / "saved", detector, detector.config, "ab", {})
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ValueError, match=r"the model has no setting 'steps'"):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides="steps")


@pytest.mark.parametrize(("saved", "finished"), [(True, False), (False, False), (True, True)])
def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool, finished: bool
) -> None:
    said = list[str]()
    outcome = Outcome(
        output=tmp_path,
        step=3,
        steps=5,
        finished=finished,
        best=None,
        best_metric="",
        metrics=None,
        stopped_by="SIGHUP",
    )

    def stopped(*_: object, ending: Callable[[Outcome], Iterable[str]], **__: object) -> Outcome:
        said.extend(ending(outcome))
        return outcome

    monkeypatch.setattr("rcnn.training.api.run_training", stopped)
    if saved:
        (tmp_path / "last").mkdir()
        (tmp_path / "last" / WEIGHTS_FILE).touch()
    rcnn.train("mask_rcnn_compact", tmp_path, tmp_path)
    again = f"to continue, make the same call with resume=True and output='{tmp_path}'"
    again = again if saved else "to start again, make the same call"
    assert said == [f"stopped by SIGHUP after 3 steps; {again}"] * (not finished)


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_one_device_cannot_be_chosen_for_processes_that_are_started(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device {device} cannot be chosen for .* devices=, max_restarts=\)"):
        rcnn.train("mask_rcnn_compact", "data", device=device, max_restarts=1)


def test_an_error_in_a_step_is_reported_at_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher reads the note of a failed process after its run has ended."""

    def failing(state: TrainState, *_: object, **_more: object) -> None:
        state.processes.doing("step 0 with image 1")
        raise RuntimeError("a bug")

    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    monkeypatch.setattr("rcnn.training.run.train", failing)
    data = write_tiny_coco(tmp_path / "data", {"train": 1}, size=(48, 64))
    words = (*TINY_MODEL, *BRIEF)
    with pytest.raises(RuntimeError, match="a bug"):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=words, device="cpu", weights="none")
    assert (tmp_path / IN_FLIGHT).read_text() == "step 0 with image 1\n"


def test_a_script_that_torchrun_starts_again_continues_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = list[RunRequest]()

    def stopped(request: RunRequest, **_: object) -> None:
        requests.append(request)
        raise ValueError("not in this test")

    monkeypatch.setattr("rcnn.training.api.run_training", stopped)
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(ValueError, match="not in this test"):
            rcnn.train("mask_rcnn_compact", "data", "run")
    assert [request.resume for request in requests] == [False, True]
    with pytest.raises(ValueError, match="has started this process again after a failure, but without output="):
        rcnn.train("mask_rcnn_compact", "data")


def test_functions_that_cannot_be_sent_to_processes_are_refused(tmp_path: Path) -> None:
    cases: dict[str, Any] = {"log": lambda line: None, "augment": [lambda sample, random: sample]}
    for name, value in cases.items():
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name} cannot be sent to the processes that are started"):
            rcnn.train("mask_rcnn_compact", tmp_path, tmp_path / "run", devices=2, device="cpu", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [{"devices": 0}, {"devices": -2}, {"max_restarts": -1}])
def test_numbers_of_processes_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))}=.*; expected [01] or more"):
        rcnn.train("mask_rcnn_compact", "data", **given)


def test_restarts_in_a_process_of_a_launcher_are_refused_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^--max-restarts starts the processes itself, .* leave --max-restarts out"):
        rcnn.train("mask_rcnn_compact", "data", max_restarts=1)
