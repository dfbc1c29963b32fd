"""`rcnn compare`: two checkpoints, or saved results, on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.options import Allow, Annotations, Device, Images, MetricOption, Offline, RelativeBoxes

_SOURCE = "a checkpoint or run to evaluate, or saved results: a COCO file, or the output folder of `rcnn eval`."


def compare(
    a: Annotated[Path, typer.Argument(help=f"The baseline: {_SOURCE}")],
    b: Annotated[Path, typer.Argument(help=f"The model to compare with the baseline: {_SOURCE}")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data set, or its annotation file. Defaults to the data set that the model A, or B, was "
            "trained on."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to compare on. Defaults to the validation split.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Folder for compare.json. Without it, no file is written.")
    ] = None,
    metric: Annotated[
        MetricOption | None,
        typer.Option(
            help="Definition of average precision. Defaults to the one of the data set's format: COCO, VOC or LVIS."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Bootstrap samples for the 95% intervals (0 = no intervals).", min=0)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    allow: Allow = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Compare two models or results: metrics, differences (B - A) and their 95% bootstrap intervals.

    An interval that contains 0 means that these images do not show which of the two is better. "B better" is the
    fraction of the bootstrap samples in which B is better.

    An image that cannot be read is listed and counts as an image without detections; the exit status is then 1.

    Example: rcnn compare runs/first runs/second
    """
    from rcnn.data.messages import counted
    from rcnn.evaluation.compare import COMPARE_FILE
    from rcnn.evaluation.compare import compare as compare_sources

    if samples:
        typer.echo(
            f"{samples:,} bootstrap samples for each kind of result (--samples 0: none) can take minutes", err=True
        )
    found = compare_sources(
        a, b, data, split=split, annotations=annotations, images=images, relative_boxes=relative_boxes,
        metric="" if metric is None else metric.value, samples=samples, seed=seed, device=device,
        allow=allow or (), output=output,
    )  # fmt: skip
    for line in found.warnings:
        typer.echo(f"warning: {line}", err=True)
    typer.echo(f"A: {a}\nB: {b}\n{counted(found.images, 'image')} of {found.split}\n")
    typer.echo(str(found))
    if output is not None:
        typer.echo(f"wrote {output / COMPARE_FILE}")
    if found.failed:
        raise typer.Exit(1)
