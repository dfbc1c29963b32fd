"""`rcnn visualize`: pictures of how a model found the objects of a data set, from proposals to detections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.early import require_places
from rcnn.cli.options import Allow, Annotations, Device, Images, Offline, RelativeBoxes, settings_argument
from rcnn.cli.progress import progress_bar
from rcnn.new_outputs import output_or_new
from rcnn.outputs import OutputFolder

QUALITY = 92  # of the JPEG pictures


def visualize(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a checkpoint or of a run (its best/ is used), or a name from `rcnn models weights`."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder of the data set, or its annotation file.")],
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of the model, e.g. rpn.proposals.post_nms=100."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set. Defaults to the validation split.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the pictures. Defaults to a new runs/visualize-MODEL-N.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of images, spread over those with objects.", min=1)] = 20,
    best: Annotated[int, typer.Option(help="Proposals drawn per object.", min=1)] = 3,
    score: Annotated[float, typer.Option(help="Do not draw detections with a lower score.", min=0, max=1)] = 0.5,
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    allow: Allow = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Draw ground truth, the best proposals of each object, their class and score, and the detections, per image.

    An object has the same colour in all panels. If an object has no good proposal, the RPN missed it; if its proposals
    have low scores, the box head missed it.

    Example: rcnn visualize runs/balloons --data balloons/ --limit 5
    """
    require_places(data, output, images=images)
    from rcnn.data.images import ImageError
    from rcnn.data.messages import counted
    from rcnn.data.opening import DatasetOptions
    from rcnn.evaluation.examples import chosen_records
    from rcnn.evaluation.opening import dataset_for, held_out_of
    from rcnn.evaluation.stages import draw_stages
    from rcnn.predictor import Predictor

    predictor = Predictor(checkpoint, device=device, overrides=overrides or (), allow=allow or ())
    predictor.detector  # noqa: B018  (ValueError for an exported file)
    options = DatasetOptions(annotations=annotations, images=images, relative_boxes=relative_boxes)
    dataset = dataset_for(predictor, data, split, held_out=held_out_of(checkpoint), options=options)
    records = chosen_records(dataset, limit)
    if not records:
        raise ValueError(f"{dataset.annotation_file} has no objects in {dataset.split}; choose another --split")
    for line in dataset.warnings:
        typer.echo(f"warning: {line}", err=True)
    for line in dataset.notes:
        typer.echo(line)
    failed, names = 0, set[str]()
    with (
        output_or_new(output, "visualize", checkpoint) as path,
        OutputFolder(path) as folder,
        progress_bar("visualize", len(records)) as advance,
    ):
        for record in records:
            try:
                picture = draw_stages(predictor, record, best=best, score=score, classes=dataset.classes)
            except (ImageError, OSError) as error:
                failed += 1
                # errors of the system name the file only if they are about opening it
                unnamed = not isinstance(error, ImageError) and error.filename is None
                typer.echo(f"{record.path}: {error}" if unnamed else str(error), err=True)
                advance()
                continue
            name = folder.free_name(f"{record.path.stem}.jpg", names)
            names.add(name.lower())
            with folder.writing(name) as temporary:
                picture.save(temporary, "JPEG", quality=QUALITY)
            advance()
    typer.echo(f"{counted(len(names), 'picture')} of {dataset.split} in {path}")
    if failed:
        typer.echo(f"{counted(failed, 'image')} failed", err=True)
        raise typer.Exit(1)
