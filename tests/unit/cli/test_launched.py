"""A command and the processes that it starts: the words that they get, and the error that they report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer

from rcnn import threads
from rcnn.cli import app, workers
from rcnn.cli.failures import COMMAND_LINE, report_failure
from rcnn.cli.main import main
from rcnn.runtime.launch import Ended
from rcnn.runtime.meeting import LostProcessError, StalledProcessError
from rcnn.stopping import Stopped

AGAIN = "to start again: rcnn eval 'a b' --devices 2\n"


@pytest.mark.parametrize(
    ("ended", "printed"),
    [
        (Ended(status=143, message="stopped by SIGTERM"), f"rcnn: stopped by SIGTERM\n{AGAIN}"),
        (Ended(status=2, failed=True, message="no images"), "rcnn: no images\n"),
        (Ended(status=1), ""),
    ],
)
def test_after_a_stop_the_command_that_starts_the_processes_again_is_printed(
    ended: Ended, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def launched(*_: object, **__: object) -> Ended:
        return ended

    monkeypatch.setattr("rcnn.runtime.launch.launch_command", launched)
    token = COMMAND_LINE.set(("eval", "a b", "--devices", "2"))
    try:
        with pytest.raises(typer.Exit) as end:
            workers.launch(2, "cpu")
    finally:
        COMMAND_LINE.reset(token)
    assert (end.value.exit_code, capsys.readouterr().err) == (ended.status, printed)


def test_a_process_whose_launcher_was_killed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing reads its note then. A note in a folder that is gone must not hide the message."""

    def stop(*_: object, **__: object) -> None:
        raise Stopped(15)

    monkeypatch.setattr(app, "app", stop)
    monkeypatch.setattr("rcnn.stopping._LAUNCHERS", [])
    file = tmp_path / "gone" / "error.json"
    values = {"RCNN_LAUNCHED": "1", "RCNN_TYPED": "rcnn eval 'a b' --devices 2", "TORCHELASTIC_ERROR_FILE": str(file)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rcnn.cli.main.note_process", lambda: None)
    monkeypatch.setattr("rcnn.cli.main.stop_with_launcher", lambda: None)
    for parent, printed in (
        (os.getppid(), ""),
        (os.getppid() + 1, f"has ended\n{AGAIN}"),
    ):
        monkeypatch.setattr("rcnn.stopping._LAUNCHERS", [parent])
        file.parent.mkdir() if not printed else shutil.rmtree(file.parent)
        with pytest.raises(SystemExit) as end:
            main(["eval", "m", "--output", "out"])
        assert end.value.code == 143
        said = capsys.readouterr().err
        assert said.endswith(printed)
        assert said.startswith("rcnn: stopped, because the process that started this one" if printed else "")
        assert bool(said) == bool(printed)


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, ValueError])
def test_the_launcher_of_one_process_gets_its_error(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --max-restarts on one device; WORLD_SIZE is 1."""

    def fail(*_: object, **__: object) -> None:
        raise kind("cuDNN error")

    monkeypatch.setattr(app, "app", fail)
    file = tmp_path / "error.json"
    for name, value in {"RCNN_LAUNCHED": "1", "WORLD_SIZE": "1", "TORCHELASTIC_ERROR_FILE": str(file)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 2
    error = json.loads(file.read_text())
    assert "cuDNN error" in error["message"]["message"]
    assert error["expected"] == (kind is ValueError)
    assert not capsys.readouterr().err  # the launcher prints it


@pytest.mark.parametrize(
    ("devices", "cores", "own", "device", "given", "line"),
    [
        (2, 8, "", "cpu", "8", "2 processes with 8 threads each, as many as one process has, because the last digits"),
        (4, 2, "", "auto", "2", "4 processes with 2 threads each"),
        (4, 1, "", "cpu", "1", ""),
        (2, 8, "3", "cpu", "3", ""),  # the user has set it for any number of processes
        (2, 8, "", "cuda", "4", ""),  # a GPU computes: the processes share the cores
    ],
)
def test_processes_that_predict_on_a_cpu_have_as_many_threads_as_one(
    devices: int,
    cores: int,
    own: str,
    device: str,
    given: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same torch adds up in the same order with the same number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: device == "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8 * (device == "cuda"))
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    found = list[str]()

    def fake(*_: object) -> Callable[..., None]:
        def noting(*_: object) -> None:
            found.append(os.environ["OMP_NUM_THREADS"])

        return noting

    monkeypatch.setattr("rcnn.runtime.launch.elastic_launch", fake)
    COMMAND_LINE.set(("eval", "RUN", "--devices", str(devices)))
    workers.launch(devices, device, same_results=True)
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert bool(said) == bool(line)
    workers.launch(devices, device)  # training
    assert found == [given, own or str(max(1, cores // devices))]
    assert not capsys.readouterr().err


def test_words_after_two_dashes_are_passed_to_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[list[str]]()

    def failing(words: Sequence[str], **_: object) -> Ended:
        started.append(list(words))
        return Ended(status=2, failed=True)

    monkeypatch.setattr("rcnn.runtime.launch.launch_command", failing)
    token = COMMAND_LINE.set(("train", "m", "--devices", "2", "--max-restarts=1", "--", "train.steps=5", "--devices"))
    try:
        with pytest.raises(typer.Exit):
            workers.launch(2, "cpu", max_restarts=1, more=["--output", "run"])
    finally:
        COMMAND_LINE.reset(token)
    options, words = ["train", "m", "--output", "run"], ["--", "train.steps=5", "--devices"]
    assert started == [[*options, *words], [*options, "--resume", *words]]


@pytest.mark.parametrize(
    ("error", "lost", "common"), [(LostProcessError, True, False), (StalledProcessError, False, True)]
)
def test_the_message_about_a_stalled_process_is_not_about_the_one_that_found_it(
    error: type[LostProcessError], lost: bool, common: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise the launcher ends the message with the name of the process that waited in vain."""
    monkeypatch.setenv("RCNN_LAUNCHED", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_failure(error("process 1 of 2 has stopped"), "process 1 of 2 has stopped", expected=True)
    written = json.loads((tmp_path / "error.json").read_text())
    assert (written["lost"], written["common"]) == (lost, common)
