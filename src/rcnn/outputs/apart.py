"""The rule that outputs are kept apart from data: no files of rcnn among the images and annotations of the user."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rcnn.outputs.marker import files_of_rcnn


def require_apart(output: Path, data: Path, images: str = "", *, folders: Collection[Path] = (), own: str = "") -> None:
    """ValueError if `output` is the folder of the `data` (or of its annotation file), or one of images.

    `images`: the folder that the user gave, within that of the data or the current one. `folders`: those in which
    images were found. `own`: a file that every output of the command has. If rcnn wrote it to `output`, an earlier
    command was allowed to, and this one replaces its files.
    """
    place, folder = output.resolve(), _folder_of(data)
    among = "the data set" if place == folder else "the images"
    if place not in {folder, *(one.resolve() for one in _folders(data, images, folders))}:
        return
    if own and own in files_of_rcnn(output):
        return
    what = "the images and annotations" if place == folder else "them"
    raise ValueError(
        f"{output} is the folder of {among}, and rcnn would put its files among {what}: choose another output "
        f"(--output), e.g. {Path('runs') / folder.name}"
    )


def inside_data(
    output: Path, data: Path, images: str = "", *, folders: Collection[Path] = (), what: str = "the data set"
) -> str:
    """A warning if `output` is below the folder `data`, or one of its images; empty if it is not.

    An annotation file as `data` is often in the working directory, beside the folder of all runs: no warning, unless
    the images are there too. `images` and `folders` as for `require_apart`. `what` is in the folder.
    """
    above = output.resolve().parents
    places = [*([data] if data.is_dir() else []), *_folders(data, images, folders)]
    inside = next((one for one in places if one.resolve() in above), None)
    if inside is None:
        return ""
    return (
        f"{output} is inside the folder of {what}, {inside}: rcnn does not read its own files as data, but other "
        "programs may. To keep them apart, choose an output (--output) outside it"
    )


def _folders(data: Path, images: str, folders: Collection[Path]) -> list[Path]:
    """The folders of images: the given one, within that of the data or the current one, and those that were found."""
    given = [folder if (folder := _folder_of(data) / images).is_dir() else Path(images)] if images else []
    return [*given, *sorted(folders)]


def _folder_of(data: Path) -> Path:
    return (data if data.is_dir() else data.parent).resolve()
