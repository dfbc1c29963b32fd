"""A damaged file of a run: resuming says which one, what was expected and what to do, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.training.log import log_gap
from rcnn.training.state import read_state
from rcnn.weights.checkpoint import checkpoint_record, read_checkpoint
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.runs import run

WORDS = (*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0")
NEW_RUN = r"restore it from a copy, or start a new run: rcnn train .*last --data DATA --output NEW_RUN"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 1}, size=(32, 48))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    run("mask_rcnn_compact", data, output, WORDS, splits=("train", "none"))
    return output


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(128, 256)) * 10)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("of the user")


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def with_value(key: str, value: object) -> Callable[[Path], None]:
    """Sets a key of a JSON file."""

    def change(path: Path) -> None:
        content: dict[str, Any] = json.loads(path.read_text())
        *above, last = key.split(".")
        place = content
        for name in above:
            place = place[name]
        place[last] = value
        path.write_text(json.dumps(content))

    return change


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("last/training.pt", truncate, f"training.pt is not the file that was written with .* {NEW_RUN}"),
        ("last/training.pt", garbage, f"training.pt is not the file that was written with .* {NEW_RUN}"),
        ("last/training.pt", folder, "training.pt is a folder; expected a file"),
        ("last/training.pt", broken_link, "training.pt is a broken symbolic link"),
        ("last/training.pt", pipe, "training.pt is not a regular file"),
        ("last/model.safetensors", truncate, "model.safetensors is truncated or damaged"),
        ("last/model.safetensors", folder, "model.safetensors is a folder; expected a file"),
        ("last/config.json", garbage, "config.json is not JSON"),
        ("last/config.json", folder, "config.json is a folder; expected a file"),
        (
            "last/config.json",
            with_value("model.num_classes", "two"),
            r"config.json \(edited or damaged after rcnn wrote it\): num_classes: expected int, got 'two': copy",
        ),
        ("config.json", truncate, r"config.json is not the record of a run \(not JSON"),
        ("config.json", folder, "config.json is a folder; expected the file of a run: move it away"),
        ("config.json", with_value("classes", 3), r"\(expected classes to be a list, got 3\). Restore it"),
        ("config.json", with_value("splits", ["a"]), "expected splits to be a list of 2 or more names"),
        ("config.json", with_value("train.lr", "fast"), "lr: expected float, got 'fast'"),
        ("config.json", with_value("held_out", 3), "expected held_out to be an object, got 3"),
        ("config.json", with_value("data_identity", "x"), 'expected data_identity to be an object, got "x"'),
        ("last", file, "last is a file; expected the folder of a run"),
        ("best", file, "best is a file; expected the folder of a run"),
        ("log.jsonl", folder, "log.jsonl is a folder; expected the file of a run"),
        (".rcnn-files", garbage, "rcnn-files is not rcnn's list of files: choose another output"),
    ],
)
def test_a_damaged_run_is_not_resumed(
    data: Path, finished: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], expected: str
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    damage(output / name)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    with pytest.raises((ValueError, OSError)) as error:
        run("mask_rcnn_compact", data, output, ["train.steps=2"], resume=True)
    assert re.search(expected, str(error.value), re.IGNORECASE), error.value
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_a_log_with_a_gap_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (0, 20, 40, 60)]
    path.write_text("\n".join(lines))
    assert log_gap(path, first_step=61, log_every=20) == ""
    assert log_gap(path, first_step=80, log_every=20) == ""  # the next line is that of step 80
    assert log_gap(path, first_step=50, log_every=20) == ""  # later lines will be written again
    path.write_text("\n".join([*lines[:2], lines[2][:9]]))  # cut in the middle of a line
    assert log_gap(path, first_step=61, log_every=20) == f"{path} is damaged: its steps 21 to 60 are not in the curves"
    assert log_gap(path, first_step=61, log_every=20, skips=True) == ""  # step 40 and 60 may have been skipped
    path.unlink()
    assert log_gap(path, first_step=2, log_every=1, skips=True).endswith(
        "is missing: its steps 0 to 1 are not in the curves"
    )
    assert log_gap(path, first_step=2, log_every=1) == f"{path} is missing: its steps 0 to 1 are not in the curves"
    assert log_gap(path, first_step=0, log_every=1) == ""


def test_a_run_is_resumed_without_its_model_and_data(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    (output / "log.jsonl").unlink()
    assert rcnn("train", "train.steps=2", "--output", output, "--resume", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert f"resuming {output} at step 1" in shown
    assert f"warning: {output}/log.jsonl is missing: its steps 0 to 0 are not in the curves" in shown
    assert read_state(output / "last")["step"] == 2
    assert rcnn("train", "--output", tmp_path / "other", "--resume") == 2
    assert f"{tmp_path / 'other'} contains no run to resume" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_to_weights_that_are_gone_is_named(finished: Path, tmp_path: Path) -> None:
    """For prediction and evaluation, too."""
    shutil.copytree(finished, tmp_path / "run")
    broken_link(tmp_path / "run" / "last" / "model.safetensors")
    with pytest.warns(UserWarning, match="last/ is used"), pytest.raises(FileNotFoundError, match="a broken symbolic"):
        read_checkpoint(tmp_path / "run")


def test_another_version_is_named_only_if_it_is_another(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "last", tmp_path / "m")
    with_value("model.num_classes", "two")(tmp_path / "m" / "config.json")
    with_value("rcnn", "0.0.1")(tmp_path / "m" / "config.json")
    with pytest.raises(ValueError, match=r"after rcnn wrote it; written by rcnn 0\.0\.1, this is .*\): num_classes: "):
        checkpoint_record(tmp_path / "m")
