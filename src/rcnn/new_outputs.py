"""Default output folders, runs/COMMAND-MODEL-N, for commands without --output."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rcnn.arguments import OUTPUT, as_path

BELOW = "runs"


def new_output(command: str, model: str | Path, *, below: str | Path = BELOW) -> Path:
    """A new folder `runs/COMMAND-MODEL-N`, created at once so that no other process gets the same N.

    `model` is a name or a path; MODEL is the last part of the path, e.g. `balloons` for `runs/balloons/best`.
    """
    path = Path(model)
    if path.name in ("best", "last") and path.parent.name:
        path = path.parent
    name = path.stem if path.is_file() else path.name
    stem = f"{command}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name).strip('._') or 'model'}"[:200]
    parent = Path(below)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _new_folder(parent, stem)
    except OSError as error:
        raise type(error)(
            f"cannot create a folder in {parent.resolve()} ({error.strerror}): choose another one with --output"
        ) from error


def _new_folder(parent: Path, stem: str) -> Path:
    """The folder STEM-N in `parent` with the next free N."""
    pattern = re.compile(re.escape(stem) + r"-(\d+)")
    used = [int(match[1]) for name in os.listdir(parent) if (match := pattern.fullmatch(name))]
    number = max(used, default=0)
    while True:
        number += 1
        folder = parent / f"{stem}-{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


@contextmanager
def output_or_new(output: str | Path | None, command: str, model: str | Path) -> Iterator[Path]:
    """The folder `output`, or a new one if that is None; after an error, new folders are removed if they are empty."""
    before = Path(BELOW).exists()
    folder = new_output(command, model) if output is None else as_path(output, OUTPUT)
    try:
        yield folder
    except BaseException:
        if output is None:
            with suppress(OSError):
                folder.rmdir()  # fails if the folder is not empty
                if not before:
                    folder.parent.rmdir()
        raise
