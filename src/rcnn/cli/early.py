"""Checks of the paths and settings of a command, made before it imports torch, which takes seconds."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import typer

from rcnn.cli.failures import is_one_of_several
from rcnn.outputs import PREDICTIONS, files_of_rcnn, inside_data, require_apart, require_folder, require_not_in_use
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


def require_places(data: Path | None, output: Path | None, *, images: str = "", own: str = "") -> None:
    """Raise OSError if `data` does not exist, or if `output` is a file or is in use by another process.

    ValueError if `output` is the folder of the data, see `require_apart`; a warning if it is inside it. `images` is the
    option --images. Not checked in one of several processes, because the first one may already write to `output`.
    """
    if is_one_of_several():
        return
    if data is not None:
        require_data_path(data)
    if output is not None:
        require_folder(output)
        require_not_in_use(output)
    if data is not None and output is not None:
        require_apart(output, data, images, own=own)
        _warn(inside_data(output, data, images))


def require_apart_from_images(
    output: Path | None, data: Path, images: str, folders: Collection[Path], own: str
) -> None:
    """As `require_places`, for the `folders` in which images were found, once the data set is open."""
    if output is None or is_one_of_several():
        return
    require_apart(output, data, folders=folders, own=own)
    if not inside_data(output, data, images):  # else the user is warned already
        _warn(inside_data(output, data, folders=folders, what="the images"))


def warn_of_photos(output: Path | None, words: Sequence[str]) -> None:
    """Warn if `output` is a folder of the images `words` to predict on, or inside one.

    Unlike that of a data set, it is allowed: pictures get names that are free, and are not predicted on later.
    """
    if output is None or is_one_of_several():
        return
    places = list(_folders_of(words))
    if any(place.resolve() == output.resolve() for place in places):
        if PREDICTIONS not in files_of_rcnn(output):
            _warn(
                f"{output} is the folder of the images: the pictures of rcnn get other names there and are not "
                "predicted on later, but other programs may take them for your images. To keep them apart, choose "
                "another output (--output)"
            )
        return
    others = (place for place in places if place.resolve() != Path.cwd())  # outputs usually go below the current one
    _warn(next(filter(None, (inside_data(output, place, what="the images") for place in others)), ""))


def _folders_of(words: Sequence[str]) -> Iterator[Path]:
    """The folders that are searched for images, and those of several of the files: a shell may expand a pattern."""
    paths = [word for word in words if "://" not in word]
    yield from (Path(path) for path in paths if os.path.isdir(path))  # of os.path: no error for what is no path
    yield from (fixed_part(path) for path in paths if glob.has_magic(path) and not os.path.exists(path))
    files = Counter(Path(path).parent for path in paths if os.path.isfile(path))
    yield from (folder for folder, count in files.items() if count > 1)


def fixed_part(pattern: str) -> Path:
    """The folder of a pattern before its first part with a wildcard."""
    parts = Path(pattern).parts
    return Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])


def _warn(line: str) -> None:
    """Print the warning `line` unless it is empty."""
    if line:
        typer.echo(f"warning: {line}", err=True)


def require_run_folder(output: Path | None, data: Path, images: str, *, resume: bool) -> None:
    """Raise ValueError or OSError if a run on `data`, with the folder `images`, cannot be written to `output`."""
    from rcnn.training.found_run import find_run, require_no_run, require_writable

    if output is None or is_one_of_several():
        return
    found = find_run(output)
    if not found.checkpoints:
        require_apart(output, data, images)
    elif resume:
        require_writable(output)
    else:
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
