"""The rule that outputs are kept apart from data: no files of rcnn among the images and annotations of the user."""

from __future__ import annotations

from pathlib import Path

from rcnn.outputs.marker import files_of_rcnn


def require_apart(output: Path, data: Path, *, own: str = "") -> None:
    """ValueError if `output` is the folder of the `data` (or of its annotation file).

    `own`: a file that every output of the command has. If rcnn wrote it to this folder, an earlier command was allowed
    to, and this one replaces its files.
    """
    folder = _folder_of(data)
    if output.resolve() != folder or (own and own in files_of_rcnn(output)):
        return
    raise ValueError(
        f"{output} is the folder of the data set, and rcnn would put its files among the images and annotations: "
        f"choose another output (--output), e.g. {Path('runs') / folder.name}"
    )


def inside_data(output: Path, data: Path, images: str = "", *, what: str = "the data set") -> str:
    """A warning if `output` is below the folder `data`, or that of its `images`; empty if it is not.

    An annotation file as `data` is often in the working directory, beside the folder of all runs: no warning. `what` is
    in the folder.
    """
    places = [data] if data.is_dir() else []
    if images:
        places.append(folder if (folder := _folder_of(data) / images).is_dir() else Path(images))
    inside = [one for one in places if one.resolve() in output.resolve().parents]
    if not inside:
        return ""
    return (
        f"{output} is inside the folder of {what}, {inside[0]}: rcnn does not read its own files as data, but other "
        "programs may. To keep them apart, choose an output (--output) outside it"
    )


def _folder_of(data: Path) -> Path:
    return (data if data.is_dir() else data.parent).resolve()
