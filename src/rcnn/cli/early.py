"""Checks of the paths and settings of a command, made before it imports torch, which takes seconds."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from rcnn.cli.failures import is_one_of_several
from rcnn.outputs import require_folder, require_not_in_use
from rcnn.text_files import missing_text, require_data_path


def is_setting(word: str) -> bool:
    """Whether a word is KEY=VALUE, and not a path: runs/lr=0.1/best, or lr=0.1 if there is such a file or folder."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key and not os.path.exists(word)  # exists: no error for a long word


def warn_of_repeats(words: list[str] | None) -> list[str] | None:
    """The settings KEY=VALUE. One line on stderr for each key that is given more than once: the last value counts.

    Scripts repeat keys on purpose: their usual settings, and then those of one run.
    """
    values: dict[str, list[str]] = {}
    for word in words or ():
        key, _, value = word.partition("=")
        values.setdefault(key.strip(), []).append(value)
    for key, given in values.items():
        if len(given) > 1 and not is_one_of_several():
            values_typed = f"{len(given)} times ({', '.join(given)})"
            typer.echo(f"warning: {key} is given {values_typed}; the last value is used: {given[-1]}", err=True)
    return words


def require_places(data: Path | None, output: Path | None) -> None:
    """Raise OSError if `data` does not exist, or if `output` is a file or is in use by another process.

    Not checked in one of several processes, because the first one may already write to `output`.
    """
    if is_one_of_several():
        return
    if data is not None:
        require_data_path(data)
    if output is not None:
        require_folder(output)
        require_not_in_use(output)


def require_run_folder(output: Path | None, *, resume: bool) -> None:
    """Raise ValueError or OSError if a run cannot be written to `output`."""
    from rcnn.training.found_run import find_run, require_no_run

    if output is not None and not is_one_of_several():
        found = find_run(output)
        if not resume:
            require_no_run(output, found.checkpoints, "--resume")


def require_an_input(words: Sequence[str]) -> None:
    """Raise FileNotFoundError if all `words`, the inputs of a prediction, are paths that do not exist."""
    if not words or not all(_is_missing(word) for word in words):
        return
    more = f" ({len(words) - 1} more do not exist)" if len(words) > 1 else ""
    raise FileNotFoundError(
        f"no image to predict on: {words[0][:300]} {missing_text(Path(words[0]))}{more}; expected a file, a folder, a "
        "pattern, or an http(s) URL"
    )


def _is_missing(word: str) -> bool:
    """Whether a word is a path that does not exist, and neither a URL nor a pattern."""
    return "://" not in word and not glob.has_magic(word) and "\0" not in word and not os.path.exists(word)
