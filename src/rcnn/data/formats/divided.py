"""Splits that `rcnn data split` wrote into the folder of the data set that it divided: are the original labels newer?

The annotation files of such splits are read instead of the original labels, so that later edits of these are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from rcnn.data.folders import written_in
from rcnn.data.messages import counted, few
from rcnn.outputs import MARKER

AGAIN = "remove annotations/instances_*.json of the parts, and divide again with rcnn data split"
KEY = "divided_from"  # in `info` of an annotation file: the original file or folder, relative to the data set


def later_edits(content: object, file: Path, images: Collection[str]) -> str:
    """A line about original labels that were edited after `file` was written with its `content`; empty if none were.

    `images` are the paths of its images. The original labels are one JSON file, or files with the name of an image.
    """
    about = content.get("info") if isinstance(content, dict) else None
    source = about.get(KEY) if isinstance(about, dict) else None
    if not isinstance(source, str) or "\0" in source:
        return ""
    folder = file.parent.parent
    original = folder / source
    labels = [original] if original.suffix.lower() == ".json" else _label_files(folder, images)
    written = file.stat().st_mtime_ns
    newer = [os.path.relpath(one, folder) for one in labels if os.path.isfile(one) and one.stat().st_mtime_ns > written]
    if not newer:
        return ""
    files = f"{counted(len(newer), 'original label file')} in {folder} {'is' if len(newer) == 1 else 'are'}"
    return f"{files} newer than this split ({few(newer)}): edits since then are not in it. To include them, {AGAIN}"


def _label_files(folder: Path, images: Collection[str]) -> Iterator[Path]:
    """The files below a folder with the name of an image, or in a folder of that name, without what rcnn wrote."""
    stems, own = {PurePosixPath(image).stem for image in images}, {PurePosixPath(image) for image in images}
    written = {PurePosixPath(one) for one in written_in(folder)}
    for place, folders, names in os.walk(folder):
        here = PurePosixPath(Path(place).relative_to(folder).as_posix())
        if place != str(folder) and MARKER in names:  # a run, or other output of rcnn
            folders.clear()
            continue
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            path = here / name
            named = path.stem in stems or here.name in stems or path.stem.rpartition("_")[0] in stems
            if named and path not in own and path not in written:
                yield folder / path
