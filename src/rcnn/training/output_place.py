"""Whether the output of a new run is apart from its data, see rcnn.outputs.apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rcnn.data import Dataset
from rcnn.outputs import inside_data, require_apart
from rcnn.training.found_run import FoundRun
from rcnn.training.request import RunRequest
from rcnn.training.run_data import RunData


def require_output_apart(request: RunRequest, found: FoundRun, data: RunData | None = None) -> None:
    """ValueError if the output of a new run is the folder of the data or of its images.

    `data` is None before it is opened: then only the paths of the request are compared.
    """
    if places := _places(request, found):
        require_apart(*places, request.images, folders=_image_folders(data))


def output_warnings(request: RunRequest, found: FoundRun, data: RunData) -> Iterator[str]:
    """Warnings about an output that is allowed, but probably a mistake."""
    if places := _places(request, found):
        yield from filter(None, [inside_data(*places, request.images, folders=_image_folders(data))])
    if request.resume and not found.checkpoints:
        yield f"{request.output} has no checkpoint to resume from: this is a new run"


def _image_folders(data: RunData | None) -> frozenset[Path]:
    return frozenset() if data is None else frozenset().union(*(one.image_folders for one in data.every.values()))


def _places(request: RunRequest, found: FoundRun) -> tuple[Path, Path] | None:
    """The output of a new run, and its data; None for a default output, and for data without files."""
    has_files = not isinstance(request.data, Dataset) or request.data.has_files
    return None if request.output is None or found.checkpoints or not has_files else (request.output, request.data_name)
