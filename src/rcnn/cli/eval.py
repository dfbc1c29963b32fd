"""`rcnn eval`: COCO's metrics of a checkpoint on a data set."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.views import TTA, TTAFlip, predictor_from

SCORE = 0.5  # what is scored lower is not drawn


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    auto = "auto"


class Padding(StrEnum):
    """Shape of the network's input."""

    exact = "exact"
    bucket = "bucket"


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or of a run (its best).")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    split: Annotated[str, typer.Option(help="Its split, as val2017.")],
    output: Annotated[
        Path, typer.Option(help="Folder for metrics.json, report.html and the results in COCO's format.")
    ],
    annotations: Annotated[
        str, typer.Option(help="Annotation file within --data, as labels/{split}.json; found by its name otherwise.")
    ] = "",
    ignore_other_classes: Annotated[
        bool,
        typer.Option(
            "--ignore-other-classes", help="Do not warn about ground truth of classes that the model does not have."
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse annotation files with faults instead of repairing or skipping them."),
    ] = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Accept a split without objects.")] = False,
    pictures: Annotated[int, typer.Option(help="So many images are drawn in report.html; 0: none.", min=0)] = 8,
    limit: Annotated[int, typer.Option(help="Only the first so many images; 0: all.", min=0)] = 0,
    batch: Annotated[int, typer.Option(help="Images a forward pass.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Threads that read images.", min=1)] = 2,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 where the hardware multiplies it.")
    ] = Precision.float32,
    padding: Annotated[
        Padding, typer.Option(help="exact: as the checkpoint's system did; bucket: few shapes, for speed.")
    ] = Padding.exact,
    tta: TTA = "",
    tta_flip: TTAFlip = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto: a GPU if there is one.")] = "auto",
) -> None:
    """Measure average precision of boxes, masks and keypoints (COCO's definitions), over all and for each class.

    Of a region proposal network: average recall of its 100 and 1000 best, whatever the class.

    Example: rcnn eval runs/balloons --data balloons/ --split val --output measured
    """
    from rcnn.cli.progress import progress_bar
    from rcnn.data import open_dataset
    from rcnn.drawing.report import write_report
    from rcnn.evaluation.evaluate import evaluate_dataset
    from rcnn.evaluation.examples import chosen_records, example_of
    from rcnn.metrics.coco import FIELDS
    from rcnn.metrics.tables import metrics_table

    predictor = predictor_from(
        checkpoint, tta, tta_flip, device=device, precision=precision.value, padding=padding.value
    )
    dataset = open_dataset(
        data,
        split,
        classes=predictor.classes,
        ignore_others=ignore_other_classes,
        keypoints=predictor.config.keypoint is not None,
        annotations=annotations,
        one_class=predictor.config.proposals_only,
        strict=strict,
        allow_empty=allow_empty,
    )
    typer.echo(f"truth: {dataset.annotation_file}")
    for line in dataset.warnings:
        typer.echo(f"warning: {line}", err=True)
    for line in dataset.notes:
        typer.echo(line)
    with progress_bar("eval", min(limit or len(dataset), len(dataset))) as advance:
        done = evaluate_dataset(predictor, dataset, limit=limit, batch_size=batch, workers=workers, advance=advance)
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").write_text(json.dumps(done.metrics.to_dict(), indent=2) + "\n")
    for kind, field in FIELDS.items():
        if kind in done.metrics.kinds:
            keep = ("image_id", "category_id", "score", field)
            (output / f"results_{kind}.json").write_text(json.dumps([{k: r[k] for k in keep} for r in done.results]))
    settings = f"{precision.value}, {padding.value} padding, {predictor.device.type}"
    examples = [example_of(predictor, record, SCORE)[0] for record in chosen_records(dataset, pictures, limit)]
    report = write_report(
        output / "report.html",
        title=f"{predictor.config.name} on {split}",
        lead=f"{checkpoint} measured on {done.metrics.images} images of {dataset.annotation_file}. "
        f"Pictures show what is scored {SCORE:g} or higher.",
        metrics=done.metrics.to_dict(),
        examples=examples,
        details={"Checkpoint": str(checkpoint), "Truth": str(dataset.annotation_file), "Settings": settings},
    )
    typer.echo(metrics_table(done.metrics))
    typer.echo(f"wrote {output / 'metrics.json'}, {report}")
