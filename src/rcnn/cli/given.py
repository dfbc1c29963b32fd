"""`rcnn predict --boxes FILE --features OUT.npz`: the boxes to score, and the file of their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rcnn.cli.sources import Sources
from rcnn.outputs import OutputFolder

if TYPE_CHECKING:
    from rcnn.data.given_boxes import BoxFile
    from rcnn.region_features import RegionFeatures


def given_boxes(boxes: Path | None, features: Path | None, filters: str | None, tta: str) -> BoxFile | None:
    """The boxes of --boxes; None without it. ValueError for options that cannot be used with it."""
    if boxes is None:
        if features is not None:
            raise ValueError(f"--features {features} needs boxes: also give --boxes FILE")
        return None
    if filters:
        raise ValueError(
            "--score and --classes would drop rows, but with --boxes each box has an entry; leave them out"
        )
    if tta:
        raise ValueError("--boxes cannot be combined with --tta; leave --tta out")
    if features is not None and features.suffix != ".npz":
        raise ValueError(f"--features {features}: expected a file name that ends in .npz")
    from rcnn.data.given_boxes import read_boxes

    return read_boxes(boxes)


def keep_given(sources: Sources, given: BoxFile) -> list[str]:
    """Remove the images from `sources` that have no entry in the file of boxes, and return their names.

    Raises ValueError if no image has one, or if two images match the same entry.
    """
    from rcnn.data.messages import few

    without = [source.name for source in sources.images if not given.has(source.name)]
    if len(without) == len(sources.images):
        raise ValueError(
            f"{given.path} has boxes for {few(given.unused())}, but for none of the images to predict on "
            f"({few(without)}); expected names that the paths of these images end with"
        )
    sources.images = [source for source in sources.images if given.has(source.name)]
    given.require_one_each([source.name for source in sources.images])
    return without


def print_warnings(given: BoxFile, images: Sequence[dict[str, Any]]) -> None:
    """Warn of boxes that were clipped, and of entries that were not used; `images`: the entries of predictions.json."""
    from rcnn.data.given_boxes import count_reaching_outside
    from rcnn.data.messages import counted, few

    counts = {
        entry["file"]: count_reaching_outside(given.of(entry["file"]), (entry["height"], entry["width"]))
        for entry in images
    }
    if names := [name for name, count in counts.items() if count]:
        total = sum(counts.values())
        verbs = ("reaches", "was") if total == 1 else ("reach", "were")
        typer.echo(
            f"warning: {counted(total, 'box')} of {given.path} {verbs[0]} more than a pixel outside the image, and "
            f"{verbs[1]} clipped to it: {few(names)}",
            err=True,
        )
    if unused := given.unused():
        typer.echo(f"warning: {given.path} has boxes for images that were not predicted on: {few(unused)}", err=True)


def require_free(features: Path, output: OutputFolder) -> None:
    """Raise FileExistsError if the file `features` exists and was not written by rcnn."""
    with _folder_of(features, output) as folder:
        folder.require_free(features.name)


def write_features(features: Path, output: OutputFolder, described: Sequence[tuple[str, RegionFeatures]]) -> None:
    """Write the features of the boxes of several images as arrays of the .npz file `features`.

    Row i of all arrays except `files` is box i; the boxes of the first image come first. `files` (I,): the images;
    `image` (N,): the index of the box's image in `files`; `boxes` (N, 4) xyxy, pixels of the image; `pooled` (N, C):
    the means over the cells of the pooled map ("pool5"); `vectors` (N, F): the input of the classifier ("fc7").
    """
    import numpy as np

    from rcnn.data.messages import counted

    rows = [found for _, found in described]
    counts = [len(found) for found in rows]
    nothing = np.zeros((0, 0), np.float32)
    with _folder_of(features, output) as folder, folder.writing(features.name) as new, new.open("wb") as file:
        np.savez(
            file,
            files=np.array([name for name, _ in described], dtype=np.str_),
            image=np.repeat(np.arange(len(rows)), counts),
            boxes=np.concatenate([found.boxes for found in rows]) if rows else nothing.reshape(0, 4),
            pooled=np.concatenate([found.pooled_means for found in rows]) if rows else nothing,
            vectors=np.concatenate([found.vectors for found in rows]) if rows else nothing,
        )
    typer.echo(f"wrote {features}: features of {counted(sum(counts), 'box')}", err=True)


@contextmanager
def _folder_of(features: Path, output: OutputFolder) -> Iterator[OutputFolder]:
    """The folder of the file `features`, open; it can be the output folder, which is already open."""
    if features.parent.resolve() == output.path.resolve():
        yield output
    else:
        with OutputFolder(features.parent) as folder:
            yield folder
