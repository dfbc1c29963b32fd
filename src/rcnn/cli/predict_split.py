"""`rcnn predict --data`: the images of a split, and their results files for COCO's evaluation server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
    from rcnn.cli.sources import SplitImages
    from rcnn.data.records import Dataset
    from rcnn.evaluation.evaluate import ImageResults
    from rcnn.predictor import Predictor

    Written = tuple[list[Path], list[ImageResults]]  # what `predict_split` returns


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """The images to predict on: the options --data, --split, --annotations, --images, --limit, --max-pixels."""

    data: Path
    split: str
    annotations: str
    images: str
    limit: int = 0  # only this number of images, the first ones; 0: all
    tile: int = 0  # side of the tiles that an image is divided into, pixels; 0: none
    overlap: float = 0.25  # of a tile's side, shared with the next one
    max_pixels: int = 0  # larger images are refused; 0: no limit


def require_one_input(options: SplitOptions | None, of_data: Mapping[str, str], images: Sequence[str]) -> None:
    """ValueError for images together with --data, or for options `of_data` (name -> value) without --data."""
    if options is None and (given := [name for name, value in of_data.items() if value]):
        hint = "" if given[0] != "--images" else ", or give a folder of images without --images"
        raise ValueError(f"{given[0]} needs the folder of the data set: give it with --data{hint}")
    if options is not None and images:
        raise ValueError(f"{images[0]}: give images or --data, not both")


def predict_split_command(
    predictor: Predictor, options: SplitOptions, output: Path | None, checkpoint: Path, *, keep: Filter
) -> None:
    """Predict on the split, write the results files, and print where they are. Exit status 1 if an image failed."""
    from rcnn.data.messages import counted
    from rcnn.evaluation.server import predict_split
    from rcnn.runtime.processes import joined
    from rcnn.tiles import predict_tiled

    dataset = _open_split(predictor, options)
    detect = None
    if options.tile:
        detect = partial(
            predict_tiled, predictor, tile=options.tile, overlap=options.overlap, score=keep.score, max_pixels=0
        )
    predict = partial(predict_split, predictor, dataset, detect=detect, max_pixels=options.max_pixels)
    with joined(predictor.device) as processes:
        if not processes.is_first:
            predict(None, processes=processes)
            return
        _print_warnings(dataset)
        scores = [keep.of(name) for name in predictor.classes]
        written, failed = _write_split(
            dataset, output, checkpoint, partial(predict, scores=scores, processes=processes)
        )
    typer.echo(f"{counted(len(dataset), 'image')} of {dataset.split}: wrote {', '.join(map(str, written))}")
    if failed:
        typer.echo(f"{counted(len(failed), 'image')} failed and have no detections", err=True)
    if failed or dataset.skipped_images:
        raise typer.Exit(1)


def images_of_split(predictor: Predictor, options: SplitOptions, keep: Filter) -> tuple[SplitImages, Filter]:
    """The images of the split, to predict on them like on files, and `keep` without classes that it does not list.

    Raises ValueError if the data set has none of these classes.
    """
    from rcnn.cli.sources import SplitImages
    from rcnn.data.messages import few
    from rcnn.evaluation.server import require_categories
    from rcnn.runtime.processes import process_numbers

    dataset = _open_split(predictor, options)
    require_categories(predictor, dataset)
    if process_numbers().is_first:
        _print_warnings(dataset)
    paths = [str(dataset.folder / name) for name in dataset.file_names]
    if dataset.missing_classes:
        known = [name for name in keep.classes or dataset.classes if name not in dataset.missing_classes]
        if not known:
            raise ValueError(
                f"{dataset.annotation_file} has none of the classes {few(keep.classes)}; choose others (--classes)"
            )
        keep = replace(keep, classes=tuple(known))
    image_ids: dict[str, list[int | str]] = {}
    for path, image_id in zip(paths, dataset.image_ids, strict=True):
        image_ids.setdefault(path, []).append(image_id)
    images = SplitImages(
        names=dict(zip(paths, dataset.file_names, strict=True)),
        image_ids=image_ids,
        category_ids=dataset.category_ids,
        skipped=len(dataset.skipped_images),
    )
    return images, keep


def _open_split(predictor: Predictor, options: SplitOptions) -> Dataset:
    """The images to predict on, with the classes of the model."""
    from rcnn.data.opening import DatasetOptions
    from rcnn.evaluation.opening import dataset_for

    dataset = dataset_for(
        predictor,
        options.data,
        options.split,
        options=DatasetOptions(
            ignore_other_classes=True, annotations=options.annotations, images=options.images, allow_empty=True
        ),
    )
    return dataset.subset(range(min(options.limit, len(dataset)))) if options.limit else dataset


def _print_warnings(dataset: Dataset) -> None:
    """Warn of images that are skipped, and of classes of the model that the data set lacks, if it has others."""
    from rcnn.data.messages import counted, few

    for finding in dataset.skipped_images:
        typer.echo(f"warning: {finding.line()}", err=True)
    if 0 < (missing := len(dataset.missing_classes)) < len(dataset.classes):
        typer.echo(
            f"warning: {dataset.annotation_file} lacks {counted(missing, 'class')} of the model "
            f"({few(dataset.missing_classes)}): their detections are not written, because they have no category id",
            err=True,
        )


def _write_split(dataset: Dataset, output: Path | None, checkpoint: Path, predict: Callable[..., Written]) -> Written:
    """Call `predict` (`predict_split`) on the data set; returns the results files, and the images that failed."""
    from rcnn.evaluation.folder import UNFINISHED

    with (
        output_or_new(output, "predict", checkpoint) as path,
        OutputFolder(path) as folder,
        progress_bar("predict", len(dataset)) as advance,
    ):

        def on_image(image: ImageResults) -> None:
            if image.error:
                typer.echo(f"{image.record.path}: {image.error}", err=True)
            advance()

        try:
            return predict(folder, on_image=on_image)
        except Stopped:
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                if (path / UNFINISHED).exists():
                    typer.echo(f"the results so far are in {path / UNFINISHED}", err=True)
            raise
