"""Resuming: what may change, what is refused, what is reported."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcnn.outputs import sha256_of
from rcnn.training.describe import describe_plan
from rcnn.training.log import RunLog, read_log
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from rcnn.training.run_folder import RunFolder
from rcnn.training.run_table import list_runs
from rcnn.weights.checkpoint import load_checkpoint
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training import runs

BRIEF = (
    *TINY_MODEL,
    "train.steps=2",
    "train.batch_size=2",
    "train.workers=0",
    "train.log_every=1",
    "train.evaluate_every=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 3, "val": 2}, size=(64, 96))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps. Copy it before changing it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    runs.run("mask_rcnn_compact", data, output, BRIEF, charts=True)
    assert (output / "best").exists()
    return output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def resume(data: Path, output: Path, *words: str, **options: str) -> list[str]:
    """Resume the run in `output`; returns its output lines."""
    lines: list[str] = []
    splits = (options.pop("split", ""), options.pop("val_split", ""))
    runs.run("mask_rcnn_compact", data, output, words, resume=True, splits=splits, lines=lines, **options)  # type: ignore[arg-type]
    return lines


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_again_finds_a_finished_run(data: Path, run: Path) -> None:
    before = contents(run)
    lines = resume(data, run, *BRIEF)
    assert f"{run} has already finished its 2 steps" in lines
    after = contents(run)
    assert {name for name in before if after[name] != before[name]} <= {".rcnn-files"}


def test_a_finished_run_of_two_processes_is_not_described_as_one_of_this_command(data: Path, run: Path) -> None:
    """It was said that it continues, with the learning rate for one process, and best/ was chosen by "AP"."""
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(record | {"processes": 2}))
    lines = list[str]()
    outcome = runs.run("mask_rcnn_compact", data, run, resume=True, lines=lines)
    assert lines == [f"{run} has already finished its 2 steps"]
    assert (outcome.finished, outcome.best_metric) == (True, "segm.AP")
    assert outcome.best == next(line["segm_AP"] for line in read_log(run / "log.jsonl") if "segm_AP" in line)


def test_a_finished_run_keeps_its_record_when_settings_are_changed(data: Path, run: Path) -> None:
    before = contents(run)
    lines = resume(data, run, *BRIEF, "train.lr=0.125")
    assert any("no effect on a run that has finished: train.lr: " in line for line in lines), lines
    after = contents(run)
    assert {name for name in before if after[name] != before[name]} <= {".rcnn-files"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fpn.channels=32", r"fpn\.channels: 16 -> 32.*cannot change during a run"),
        ("train.optimizer=sgd", r"train\.optimizer cannot change when a run is resumed: it is adamw in"),
        ("train.best=segm.AP", r"train\.best cannot change when a run is resumed: it is not set in .*, got segm\.AP"),
        ("train.metric=voc2012", r"train\.metric cannot change"),
        ("mask=null", r"cannot change during a run"),
        ("train.steps=1", r"already at step 2, but train\.steps=1"),
        ("train.nonsense=1", r"train\.nonsense"),
        ("num_classes=5", r"num_classes=5"),
    ],
)
def test_a_setting_that_cannot_change_is_refused_without_harm(data: Path, run: Path, word: str, message: str) -> None:
    before = contents(run)
    with pytest.raises(ValueError, match=message):
        resume(data, run, word)
    assert contents(run) == before
    resume(data, run, "train.steps=3")
    assert [line["step"] for line in read_log(run / "log.jsonl") if "loss" in line] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"split \(--split\) cannot change.*it is train in .*, got val"),
        ({"val_split": "none"}, r"val_split \(--val-split\) cannot change"),
        ({"annotations": "a.json"}, r"annotations \(--annotations\) cannot change.*not set"),
        ({"weights": "imagenet"}, r"weights \(--weights\) cannot change"),
    ],
)
def test_an_option_that_cannot_change_is_refused(data: Path, run: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resume(data, run, **options)


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 3), (1, 4)])
def test_epochs_of_a_run_with_other_images_per_step(data: Path, run: Path, batch_size: int, steps: int) -> None:
    """Two epochs are 6 images; in its two steps, the run has seen 4."""
    words = ("train.epochs=2", f"train.batch_size={batch_size}")
    request = RunRequest(model="mask_rcnn_compact", data=data, output=run, overrides=words, resume=True, device="cpu")
    assert plan_training(request, log=lambda line: None).settings.steps == steps


def test_the_images_of_a_run_count_through_several_changes_of_the_images_per_step(data: Path, run: Path) -> None:
    """Its two steps had two images each; two epochs are 6 images. The same command again changes nothing."""
    once, twice = ("train.epochs=2", "train.batch_size=1"), ("train.epochs=2", "train.batch_size=2")
    for words, steps, extra in ((("train.batch_size=1",), 2, 2), (once, 4, 2), (once, 4, 2), ((), 4, 2), (twice, 3, 0)):
        request = RunRequest(
            model="mask_rcnn_compact", data=data, output=run, overrides=words, resume=True, device="cpu"
        )
        plan = plan_training(request, log=lambda line: None)
        assert (plan.settings.steps, plan.record().get("extra_images", 0)) == (steps, extra), words
        [line] = [one for one in describe_plan(plan) if one.startswith("learning rate ")]
        assert line.endswith(f" = {(4 + (steps - 2) * plan.settings.batch_size) / 3:.1f} epochs")
        (run / "config.json").write_text(json.dumps(plan.record()))


def test_the_epoch_counts_the_images_of_earlier_steps(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps of two images and one of one are 5 of 3 images."""
    resume(data, run, "train.steps=3", "train.batch_size=1")
    assert ", epoch 1.7, " in capsys.readouterr().err


def test_lines_of_the_log_that_are_damaged_are_counted(data: Path, run: Path) -> None:
    path = run / "log.jsonl"
    assert not [line for line in resume(data, run, "train.steps=3") if "log.jsonl" in line]
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, "no JSON", '{"loss": 1.0}', *others, "", '{"step": 3, "lo']))  # cut by a kill
    lines = [line for line in resume(data, run, "train.steps=4") if "log.jsonl" in line]
    said = f"warning: {path}: lines 2, 3 are damaged and are removed; their steps are missing in the curves"
    assert lines == [said]
    assert "no JSON" not in path.read_text()


def test_changes_are_reported(data: Path, run: Path) -> None:
    lines = resume(data, run, "train.steps=3", "box.score_threshold=0.2")
    assert any(
        "changed since the run was started: box" in line and "0.2; train.steps: 2 -> 3" in line for line in lines
    )
    assert json.loads((run / "config.json").read_text())["train"]["steps"] == 3


def test_other_data_are_reported(data: Path, run: Path, tmp_path: Path) -> None:
    assert not any("data of split" in line for line in resume(data, run))
    other = write_tiny_coco(tmp_path / "other", {"train": 2, "val": 2}, size=(64, 96))
    lines = resume(other, run, "train.steps=3")
    [line] = [line for line in lines if "data of split" in line]
    assert line.startswith("warning: the data of split train changed")
    assert "number of images was 3, now 2" in line
    assert "number of objects was 6, now 4" in line


def test_a_missing_best_is_written_again(data: Path, run: Path) -> None:
    kept = load_checkpoint(run / "best").state
    shutil.rmtree(run / "best")
    lines = resume(data, run)
    assert any("best is missing" in line and "writes a new one" in line for line in lines)
    written = load_checkpoint(run / "best").state
    assert all(torch.equal(value, written[name]) for name, value in kept.items())
    assert sum("bbox_AP" in line for line in read_log(run / "log.jsonl")) == 1


def test_a_missing_last_folder_is_reported_with_the_options(data: Path, run: Path) -> None:
    shutil.rmtree(run / "last")
    with pytest.raises(
        ValueError, match=r"last is missing.*best/ does not contain the state of.*rcnn train .*best --data"
    ):
        resume(data, run)
    with pytest.raises(ValueError, match=r"contains a run \(best/\): continue it with resume=True \(--resume\)"):
        runs.run("mask_rcnn_compact", data, run, BRIEF)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", "12", '{"model": 1}'])
def test_a_damaged_record_is_refused(data: Path, run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the record of a run"):
        resume(data, run)


def test_a_flipped_bit_is_noticed(data: Path, run: Path) -> None:
    path = run / "last" / "training.pt"
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"training\.pt is not the file that was written with the config\.json"):
        resume(data, run)


def test_the_state_of_another_step_is_noticed(data: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "longer")
    resume(data, tmp_path / "longer", "train.steps=3")
    shutil.copy(tmp_path / "longer" / "last" / "training.pt", run / "last" / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt is not the file"):
        resume(data, run)


def test_a_run_that_was_copied_without_its_hidden_files_resumes(data: Path, run: Path) -> None:
    (run / ".rcnn-files").unlink()
    resume(data, run, "train.steps=3")
    assert load_checkpoint(run / "last").provenance["train"]["steps"] == 3


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("left", ["nothing", "empty folder", "record and log"])
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    data: Path, finished: Path, tmp_path: Path, left: str, flag: bool
) -> None:
    output = tmp_path / "run"
    if left == "record and log":
        shutil.copytree(finished, output, ignore=shutil.ignore_patterns("last", "best", "curve*"))
    elif left == "empty folder":
        output.mkdir()
    runs.run("mask_rcnn_compact", data, output, BRIEF, resume=flag)
    one, two = (load_checkpoint(folder / "last").state for folder in (finished, output))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    logs = [read_log(folder / "log.jsonl") for folder in (finished, output)]
    assert [line | {"seconds": 0} for line in logs[0]] == [line | {"seconds": 0} for line in logs[1]]


def test_the_seconds_of_a_log_go_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "seconds": 30.5, "loss": 1.0}\n{"step": 1, "seconds": 99.0, "loss": 1.0}\n')
    with RunLog(path, steps=3, first_step=1) as log:  # step 1 is repeated
        log.write(step=1, loss=0.5)
    first, second = read_log(path)
    assert first["seconds"] == 30.5
    assert 30.5 <= second["seconds"] < 60


DAMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda value: value * math.nan,
    "short": lambda value: value[:-1],
    "int": lambda value: value.int(),
}


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", "nan", r"last has NaN or infinity in 1 tensor: .*rcnn train"),
        ("model.safetensors", "short", r"last does not fit the detector of its config"),
        ("model.safetensors", "int", r"last does not fit .*torch.int32 \(expected torch.float32\)"),
        ("training.pt", "nan", r"training\.pt does not fit .*exp_avg has NaN"),
        ("training.pt", "short", r"training\.pt does not fit .*exp_avg has shape"),
    ],
)
def test_a_damaged_tensor_with_the_right_digest_is_reported(
    data: Path, run: Path, file: str, damage: str, message: str
) -> None:
    path = run / "last" / file
    if file == "training.pt":
        values = torch.load(path, weights_only=True)
        first = values["optimizer"]["state"][0]
        first["exp_avg"] = DAMAGES[damage](first["exp_avg"])
        torch.save(values, path)
    else:
        state = load_file(path)
        name = next(name for name, value in state.items() if value.ndim == 4)
        save_file(state | {name: DAMAGES[damage](state[name]).contiguous()}, path)
    config = json.loads((run / "last" / "config.json").read_text())
    config["files"][file] = sha256_of(path)
    (run / "last" / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="config.json"), pytest.raises(ValueError, match=message):
        resume(data, run, "train.steps=3")


def test_a_run_that_another_process_wrote_meanwhile_is_kept(run: Path) -> None:
    with (
        RunFolder(run, classes=(), provenance={}) as folder,
        pytest.raises(FileExistsError, match="last was written by another rcnn process while this one started"),
    ):
        folder.claim(resumes=False)


def test_a_run_that_cannot_be_written_is_not_sent_elsewhere(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed continues in its own folder only."""

    def access(path: str | Path, mode: int) -> bool:
        return Path(path) != run

    monkeypatch.setattr("rcnn.training.found_run.os.access", access)
    with pytest.raises(PermissionError, match=rf"^{run} cannot be written: a run is resumed in its own folder, so"):
        resume(data, run, "train.steps=4")
    monkeypatch.undo()

    def locked(folder: Path) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr("rcnn.outputs.folder.locked_marker", locked)
    for resumes, advice in ((True, "a run is resumed in its own folder, so make it"), (False, "choose another output")):
        with pytest.raises(OSError, match=rf"^{run} cannot be written \(Read-only file system\): {advice}"):
            RunFolder(run, classes=(), provenance={}, resumes=resumes)


def test_another_number_of_processes_with_the_same_images_per_step_is_said(data: Path, run: Path) -> None:
    request = RunRequest(
        model="mask_rcnn_compact", data=data, output=run, resume=True, device="cpu",
        overrides=("train.steps=4", "train.batch_size=1"),
    )  # fmt: skip
    said = "the run had 1 process and now has 2: it continues with the same images in the same order"
    assert [line for line in plan_training(request, str, devices=2).warnings if line.startswith(said)]
    other = plan_training(request, str, devices=1).warnings
    assert [line for line in other if line.startswith("the run had 2 images per step and now has 1, so it")]


def test_the_error_that_ended_a_run_is_kept_until_it_is_resumed(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*values: object, **options: object) -> None:
        raise ValueError("the disk of the photos is gone\nmount it")

    monkeypatch.setattr("rcnn.training.run.train", fail)
    with pytest.raises(ValueError, match="the disk of the photos is gone"):
        resume(data, run, "train.steps=4")
    [row] = list_runs(run.parent)
    assert (row.state, row.failure) == ("failed 50 %", "the disk of the photos is gone")
    monkeypatch.undo()
    resume(data, run, "train.steps=3")
    assert [(row.state, row.failure) for row in list_runs(run.parent)] == [("finished", "")]


def test_what_the_user_put_into_a_run_is_kept(data: Path, run: Path) -> None:
    """best/ and last/ are replaced as a whole when they are saved."""
    kept = [run / "last" / "notes.txt", run / "best" / "eval" / "report.html", run / "failed.txt"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    resume(data, run, "train.steps=4")
    assert [path.read_text() for path in kept] == ["mine"] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_run_is_refused(data: Path, run: Path) -> None:
    """A read would wait for ever."""
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    with pytest.raises(ValueError, match=r"log\.jsonl is not a regular file \(a pipe or a device\?\)"):
        resume(data, run, "train.steps=4")
