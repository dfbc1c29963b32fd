"""Commands that messages print: pasted into a shell, a path with a space stays one word."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.commands import as_typed
from rcnn.evaluation.thresholds import find_thresholds
from rcnn.training.found_run import start_of_run
from rcnn.weights.checkpoint import read_checkpoint
from rcnn.weights.readers.state_dict import find_weights


def test_words_are_quoted_only_where_a_shell_needs_it() -> None:
    words = ("rcnn", "train", Path("my run") / "last", "--data", "DATA", "it's $HOME", "train.steps=5", 3)
    text = as_typed(*words)
    assert shlex.split(text) == [str(word) for word in words]
    assert text.startswith("rcnn train 'my run/last' --data DATA ")
    assert text.endswith(" train.steps=5 3")


def of_a_file(folder: Path) -> object:
    return read_checkpoint(folder / "a b.pth")


def of_a_checkpoint(folder: Path) -> object:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return find_weights(folder)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (of_a_file, "rcnn convert FOLDER/a b.pth --output DIR"),
        (read_checkpoint, "rcnn convert FOLDER/a b.pth --output DIR"),
        (of_a_checkpoint, "rcnn predict FOLDER IMAGES"),
        (find_thresholds, "rcnn eval FOLDER --data DIR --output FOLDER/eval"),
        (start_of_run, "rcnn train MODEL_OR_CHECKPOINT --data DIR --output FOLDER"),
    ],
)
def test_messages_have_commands_that_a_shell_understands(
    call: Callable[[Path], object], expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "a b.pth").touch()
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call(folder)
    [command] = re.findall(r"rcnn (?:convert|predict|eval|train) .*?(?=`|, or|$)", str(error.value))
    words = [word.replace(" ", "\0") for word in shlex.split(command)]
    assert " ".join(words).replace(str(folder).replace(" ", "\0"), "FOLDER").replace("\0", " ") == expected
