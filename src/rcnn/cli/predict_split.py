"""`rcnn predict --data`: results files of a split, with or without ground truth, for COCO's evaluation server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rcnn.cli.progress import progress_bar
from rcnn.cli.scores import Filter
from rcnn.new_outputs import output_or_new
from rcnn.outputs import OutputFolder
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from rcnn.data.records import Dataset
    from rcnn.evaluation.evaluate import Detect, ImageResults
    from rcnn.predictor import Predictor
    from rcnn.runtime.processes import Processes


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """The images to predict on: the options --data, --split, --annotations, --images, --limit."""

    data: Path
    split: str
    annotations: str
    images: str
    limit: int = 0  # only this number of images, the first ones; 0: all
    tile: int = 0  # side of the tiles that an image is divided into, pixels; 0: none
    overlap: float = 0.25  # of a tile's side, shared with the next one


def require_one_input(options: SplitOptions | None, split: str, images: Sequence[str]) -> None:
    """ValueError for images together with --data, or for --split without --data."""
    if options is None and split:
        raise ValueError("--split needs the folder of the data set: give it with --data")
    if options is not None and images:
        raise ValueError(f"{images[0]}: give images or --data, not both")


def predict_split_command(
    predictor: Predictor, options: SplitOptions, output: Path | None, checkpoint: Path, *, keep: Filter
) -> None:
    """Predict on the split, write the results files, and print where they are. Exit status 1 if an image failed."""
    from rcnn.data.messages import counted, few
    from rcnn.data.opening import DatasetOptions
    from rcnn.evaluation.opening import dataset_for
    from rcnn.evaluation.server import predict_split
    from rcnn.runtime.processes import joined
    from rcnn.tiles import predict_tiled

    dataset = dataset_for(
        predictor,
        options.data,
        options.split,
        options=DatasetOptions(
            ignore_other_classes=True, annotations=options.annotations, images=options.images, allow_empty=True
        ),
    )
    if options.limit:
        dataset = dataset.subset(range(min(options.limit, len(dataset))))
    detect = None
    if options.tile:
        tiled = partial(predict_tiled, predictor, tile=options.tile, overlap=options.overlap, max_pixels=0)
        detect = partial(tiled, score={name: keep.of(name) for name in predictor.classes})
    with joined(predictor.device) as processes:
        if not processes.is_first:
            predict_split(predictor, dataset, None, detect=detect, processes=processes)
            return
        if 0 < (missing := len(dataset.missing_classes)) < len(dataset.classes):
            typer.echo(
                f"warning: {dataset.annotation_file} lacks {counted(missing, 'class')} of the model "
                f"({few(dataset.missing_classes)}): their detections are not written, because they have no category id",
                err=True,
            )
        for finding in dataset.skipped_images:
            typer.echo(f"warning: {finding.line()}", err=True)
        written, failed = _write_split(predictor, dataset, output, checkpoint, keep, detect, processes)
    typer.echo(f"{counted(len(dataset), 'image')} of {dataset.split}: wrote {', '.join(map(str, written))}")
    if failed:
        typer.echo(f"{counted(len(failed), 'image')} failed and have no detections", err=True)
    if failed or dataset.skipped_images:
        raise typer.Exit(1)


def _write_split(
    predictor: Predictor,
    dataset: Dataset,
    output: Path | None,
    checkpoint: Path,
    keep: Filter,
    detect: Detect | None,
    processes: Processes,
) -> tuple[list[Path], list[ImageResults]]:
    """Predict on the data set; returns the results files, and the images that failed."""
    from rcnn.evaluation.folder import UNFINISHED
    from rcnn.evaluation.server import predict_split

    with (
        output_or_new(output, "predict", checkpoint) as path,
        OutputFolder(path) as folder,
        progress_bar("predict", len(dataset)) as advance,
    ):

        def on_image(image: ImageResults) -> None:
            if image.error:
                typer.echo(f"{image.record.path}: {image.error}", err=True)
            advance()

        scores = [keep.of(name) for name in predictor.classes]
        try:
            return predict_split(
                predictor, dataset, folder, scores=scores, detect=detect, on_image=on_image, processes=processes
            )
        except Stopped:
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                typer.echo(f"the results so far are in {path / UNFINISHED}", err=True)
            raise
