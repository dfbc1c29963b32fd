"""A command and the processes that it starts: the words that they get, and the error that they report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from rcnn.cli import app, workers
from rcnn.cli.failures import COMMAND_LINE
from rcnn.cli.main import main
from rcnn.runtime.launch import Ended


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


def test_words_after_two_dashes_are_passed_to_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[list[str]]()

    def failing(words: Sequence[str], *, devices: int, typed: Sequence[str]) -> Ended:
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
