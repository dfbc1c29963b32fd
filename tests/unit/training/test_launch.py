"""`rcnn train --devices 2`: the run of one process with all images, its folder, and how it resumes with one process."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rcnn.drawing.charts import DIAGNOSTICS
from rcnn.evaluation.api import evaluate
from rcnn.outputs import MARKER
from rcnn.runtime.launch import LAUNCHED, TYPED, Ended, _environment
from rcnn.training.log import read_log
from rcnn.training.request import RunRequest, continue_command
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.process_runs import started

WORDS = (
    *TINY_MODEL,
    "train.steps=4",
    "train.workers=1",
    "train.log_every=1",
    "train.warmup_steps=1",
    "train.milestones=[]",
    "train.evaluate_every=2",
    "train.jitter=0.2",
    "train.scales=[64,96]",
    "box.score_threshold=0.01",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 3}, size=(64, 96))


def train(data: Path, output: Path, *words: object) -> int:
    return rcnn(*words_of(data, output), *words)


def words_of(data: Path, output: Path) -> list[object]:
    return ["train", "mask_rcnn_compact", "--data", data, "--output", output, "--device", "cpu", *WORDS]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [line | {"seconds": 0} for line in read_log(folder / "log.jsonl")]


def in_forks(words: Sequence[str], *, devices: int, typed: Sequence[str] | None, folder: Path, **_: object) -> Ended:
    """As `launch_command`, in processes that start at once; what they print goes to files in `folder`.

    tests/faults/test_lost_processes.py has the processes of the launcher itself.
    """
    folder = folder / f"{words[0]} {devices} {len(list(folder.glob('*')))}"
    with _environment(devices, typed or words):
        variables = {name: os.environ[name] for name in (LAUNCHED, TYPED)}
    started(devices, folder, partial(_command_of_rank, words, folder, variables))
    return Ended(status=max(int(path.read_text()) for path in folder.glob("*.status")))


def _command_of_rank(words: Sequence[str], folder: Path, variables: dict[str, str], rank: int) -> None:
    os.environ |= variables
    with (folder / f"{rank}.errors").open("w") as errors:
        os.dup2(errors.fileno(), 2)
    with (folder / f"{rank}.txt").open("w") as file, redirect_stdout(file):
        status = rcnn(*words)
    (folder / f"{rank}.status").write_text(str(status))


def printed_in(folder: Path, kind: str) -> str:
    """All that the processes of `in_forks` printed: "txt" for stdout, "errors" for stderr."""
    return "".join(path.read_text() for path in sorted(folder.rglob(f"*.{kind}")))


def test_two_processes_make_the_run_of_one(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, logs = tmp_path / "one", tmp_path / "two", tmp_path / "printed"
    assert train(data, one, "train.batch_size=2") == 0
    logs.mkdir()
    monkeypatch.setattr("rcnn.runtime.launch.launch_command", partial(in_forks, folder=logs))
    capfd.readouterr()
    assert train(data, two, "--devices", 2, "train.batch_size=1", "train.steps=2") == 0
    printed = printed_in(logs, "txt")
    assert "learning rate 0.0005 = 0.002 x 2 images per step (2 processes) / 8" in printed
    assert printed.count("finished after 2 steps") == 1
    errors = printed_in(logs, "errors") + capfd.readouterr().err
    assert not re.search(r"deprecated|Traceback|rcnn:", errors)
    assert json.loads((two / "config.json").read_text())["processes"] == 2
    page = (two / "report.html").read_text(encoding="utf-8")
    typed = shlex.join(
        ["rcnn", *map(str, words_of(data, two)), "--devices", "2", "train.batch_size=1", "train.steps=2"]
    )
    assert typed in html.unescape(page)
    assert re.search(r"processes</t[dh]>\s*<td>2<", page)
    assert "2 of 2 steps, finished." in page
    # one process with the same images per step continues the same stream
    assert train(data, two, "--resume", "train.batch_size=2", "train.steps=4") == 0
    assert "per step and now has" not in capfd.readouterr().err
    assert "processes" not in json.loads((one / "config.json").read_text())
    lines, expected = log_of(two), log_of(one)
    assert [line.keys() for line in lines] == [line.keys() for line in expected]
    for line, other in zip(lines, expected, strict=True):
        if "loss" in line:
            # after the first step, rounding decides about classes and samples that are nearly equal
            names = [name for name in line if line["step"] == 0 or not name.startswith(DIAGNOSTICS)]
            assert {name: line[name] for name in names} == pytest.approx(
                {name: other[name] for name in names}, rel=5e-3, abs=1e-3
            )
    assert any(name.startswith(DIAGNOSTICS) for name in lines[0])


def test_what_cannot_be_started_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in {
        ("--devices", "2", "train.batch=1"): "train.batch",
        ("--devices", "2", "--device", "cuda:0"): "give --device cuda or cpu",
    }.items():
        assert rcnn("train", "mask_rcnn_compact", "--data", data, "--output", tmp_path / "run", *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_variables_of_a_launcher_that_contradict_each_other_are_refused(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(data, tmp_path / "run") == 2
    assert "WORLD_SIZE=2, but RANK and LOCAL_RANK are not set" in capfd.readouterr().err
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert train(data, tmp_path / "run") == 2
    assert "RANK=2" in capfd.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert train(data, tmp_path / "run", "--devices", 2) == 2
    assert "leave --devices out" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def outputs(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on the number of processes; the report names the time."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in paths if path.name not in (MARKER, "report.html") and path.suffix != ".zip"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def predict_and_evaluate(model: Path, data: Path, folder: Path, *devices: object) -> None:
    """The three commands on a split with an image that cannot be read, which the first process reports."""
    last = ("--device", "cpu", "box.score_threshold=0.01", *devices)
    whole = ("--data", data, "--split", "train")
    assert rcnn("eval", model, "--output", folder / "eval", *whole, "--batch-size", 2, *last) == 1
    assert rcnn("predict", model, data / "train", "--output", folder / "found", "--score", 0.01, *last) == 1
    assert rcnn("predict", model, "--output", folder / "split", *whole, *last) == 1


def test_evaluation_and_prediction_do_not_depend_on_the_number_of_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images, one of which cannot be read."""
    options = ("--device", "cpu", "--val-split", "none", "--output", tmp_path / "run")
    words = ("train.steps=1", "train.workers=0", "train.evaluate_every=0")
    assert rcnn("train", "mask_rcnn_compact", "--data", data, *options, *WORDS, *words) == 0
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    (copy / "train" / "train_2.png").write_bytes(b"no image")
    model = tmp_path / "run" / "last"
    predict_and_evaluate(model, copy, tmp_path / "1")
    expected = outputs(tmp_path / "1")
    assert {"eval/metrics.json", "eval/results_segm.json", "found/train_1.jpg"} <= expected.keys()
    assert len(json.loads(expected["eval/results_bbox.json"])) > 4
    (tmp_path / "printed").mkdir()
    monkeypatch.setattr("rcnn.runtime.launch.launch_command", partial(in_forks, folder=tmp_path / "printed"))
    for count in (2, 4):
        predict_and_evaluate(model, copy, tmp_path / str(count), "--devices", count)
        assert outputs(tmp_path / str(count)) == expected
    assert printed_in(tmp_path / "printed", "txt").count("metrics.json") == 2  # one process of 2, and one of 4
    found = evaluate(model, copy, split="train", device="cpu", devices=2)
    assert found.metrics.to_dict() == evaluate(model, copy, split="train", device="cpu").metrics.to_dict()
    assert len(found.failed) == 1


def test_the_command_that_continues_a_run_starts_as_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RunRequest(model="m", data=Path("my data"), device="cpu", allow=("own.py:f",), allow_empty=True)
    again = f"rcnn train m --data 'my data' --output {tmp_path} --resume"
    assert continue_command(RunRequest(model="m", data=Path("my data")), 1, tmp_path) == again
    own = f"{again} --device cpu --allow own.py:f --allow-empty"
    assert continue_command(request, 1, tmp_path) == own
    code = ("own.py:f", "my net.py:g")  # what the run imports: the first was allowed, the second was a setting
    assert continue_command(request, 1, tmp_path, code).count("--allow own.py:f --allow 'my net.py:g'") == 1
    assert continue_command(request, 4, tmp_path) == f"{own} (in 4 processes, started as before)"
    monkeypatch.setenv(LAUNCHED, "1")
    assert continue_command(request, 4, tmp_path) == f"{own} --devices 4"
