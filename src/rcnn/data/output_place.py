"""Whether the output of a command that reads a data set is apart from it, see rcnn.outputs.apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rcnn.arguments import DATA, as_path
from rcnn.data.formats.layouts import format_of
from rcnn.data.records import Dataset
from rcnn.outputs import files_of_rcnn, inside_data, require_apart


def require_output_apart(output: Path, data: Dataset | str | Path, images: str, *, own: str) -> None:
    """ValueError if `output` is the folder of the `data`, or that of its `images` which the user named.

    `own`: a file that every output of the command has, see `require_apart`.
    """
    if not isinstance(data, Dataset):
        require_apart(output, as_path(data, "the data set", DATA), images, own=own)
    elif data.has_files:
        require_apart(output, data.root, folders=data.image_folders, own=own)


def output_warnings(
    output: Path, data: Dataset | str | Path, images: str, opened: Sequence[Dataset], *, own: str
) -> tuple[str, ...]:
    """A warning if `output` is inside the folder of the data or its images. Errors as for `require_apart`.

    `opened`: the splits of `data` that were opened.
    """
    files = [one for one in opened if one.has_files]
    if not files:
        return ()
    place = data.root if isinstance(data, Dataset) else Path(data)
    folders = frozenset[Path]().union(*(one.image_folders for one in files))
    require_apart(output, place, images, folders=folders, own=own)
    return tuple(filter(None, [inside_data(output, place, images, folders=folders)]))


def require_no_data_set(output: Path, *, own: str) -> None:
    """ValueError if `output` is the folder of a data set, for a command that reads none; `own` as above."""
    if _is_data_set(output) and own not in files_of_rcnn(output):
        require_apart(output, output)


def beside_data(output: Path) -> str:
    """A warning if a folder above `output`, up to the working directory, is a data set; empty if none is.

    Outputs are usually below the working directory, also if that is a data set.
    """
    place, here = output.resolve(), Path.cwd().resolve()
    above = next((one for one in _between(place, here) if _is_data_set(one)), None)
    return "" if above is None else inside_data(output, above)


def _between(place: Path, here: Path) -> Iterator[Path]:
    """The folders above `place` and below `here`; only the first if `place` is elsewhere."""
    above = [*place.parents]
    yield from above[: above.index(here)] if here in above else above[:1]


def _is_data_set(folder: Path) -> bool:
    with suppress(OSError, ValueError):  # of files that only look like annotations
        return bool(format_of(folder))
    return False
