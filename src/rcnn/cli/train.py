"""`rcnn train`: learn a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_CHECKPOINT", help="A name from `rcnn models list`, or a folder.")
    ],
    data: Annotated[
        Path, typer.Option(help="Folder of the data set: annotations/instances_SPLIT.json + SPLIT/, or another.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run: config.json, log.jsonl, curve.html, last/, best/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.SUB=VALUE", help="Settings, as rpn.proposals.nms_iou=0.6 train.steps=500."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to learn; found by its name (train...) where not given.")] = "",
    val_split: Annotated[
        str, typer.Option(help="Split to evaluate on; found by its name (val...); `none`: no evaluation.")
    ] = "",
    annotations: Annotated[
        str, typer.Option(help="Annotation file within --data, as labels/{split}.json; found by its name otherwise.")
    ] = "",
    weights: Annotated[
        str, typer.Option(help="Folder that `rcnn convert` made of ImageNet weights: the backbone begins so.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output, with its settings.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto: a GPU if there is one.")] = "auto",
) -> None:
    """Train a model from scratch, or fine-tune a checkpoint, whose classes may be others.

    Ctrl-C stops after the step that is going on; --resume goes on from there.

    Example: rcnn train mask_rcnn_compact --data balloons/ --output runs/balloons train.steps=500
    """
    from rcnn.training.run import run_training

    outcome = run_training(
        model,
        data,
        output,
        overrides or [],
        splits=(split, val_split),
        resume=resume,
        device=device,
        weights=weights,
        annotations=annotations,
        say=typer.echo,
    )
    typer.echo(f"{'finished' if outcome.finished else 'stopped'} after {outcome.step} steps; the run is in {output}")
    if outcome.best is not None:
        typer.echo(f"best {outcome.best:.4f}, in {output / 'best'}")
    if not outcome.finished:
        raise typer.Exit(130)
