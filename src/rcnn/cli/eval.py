"""`rcnn eval`: the metrics of a checkpoint, or of saved results, on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.early import require_apart_from_images, require_places
from rcnn.cli.options import (
    TTA,
    Allow,
    AllowEmpty,
    Annotations,
    Compile,
    Device,
    Images,
    MetricOption,
    Offline,
    Padding,
    PaddingOption,
    Precision,
    PrecisionOption,
    RelativeBoxes,
    Strict,
    TTAFlip,
    settings_argument,
)
from rcnn.cli.views import predictor_from
from rcnn.cli.workers import Devices, launch
from rcnn.commands import as_typed
from rcnn.new_outputs import output_or_new
from rcnn.outputs import METRICS_FILE, files_of_rcnn
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from rcnn.evaluation.evaluate import Evaluation
    from rcnn.evaluation.opening import Subject
    from rcnn.evaluation.plan import EvaluationOptions
    from rcnn.evaluation.recorded_data import RecordedData
    from rcnn.predictor import Predictor


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT_OR_RESULTS",
            help="Folder of a checkpoint or of a run (its best/ is used), or a name from `rcnn models weights`; or "
            "results to score again: a file in COCO's format, or the output folder of an evaluation.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data set, or its annotation file. Defaults to the data set that the run was trained on."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of the model, e.g. box.score_threshold=0.001."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Split to evaluate on. Defaults to the validation split (val...), or to the images that the run held "
            "out from training."
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for metrics.json, report.html and the results in COCO's format. "
            "Defaults to a new runs/eval-MODEL-N."
        ),
    ] = None,
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    ignore_other_classes: Annotated[
        bool, typer.Option("--ignore-other-classes", help="Do not warn about objects of classes the model lacks.")
    ] = False,
    strict: Strict = False,
    allow_empty: AllowEmpty = False,
    metric: Annotated[
        MetricOption | None,
        typer.Option(
            help="Definition of average precision. Defaults to the one of the data set's format: COCO, VOC or LVIS."
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            help="Detections per image and class that count. Defaults to 100 (keypoints 20, proposals 1000; LVIS: 300 "
            "per image).",
            min=1,
        ),
    ] = None,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Print one line per class: AP, AP50, AP75, small, medium, large, AR."),
    ] = False,
    boundary: Annotated[
        bool,
        typer.Option("--boundary", help="Also measure boundary AP of masks: pip install 'rcnn\\[boundary]'."),
    ] = False,
    pictures: Annotated[int, typer.Option(help="Number of images drawn in report.html (0 = none).", min=0)] = 8,
    limit: Annotated[int, typer.Option(help="Evaluate only the first N images (0 = all).", min=0)] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch", help="Images per forward pass.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Threads that read images.", min=1)] = 2,
    precision: PrecisionOption = Precision.float32,
    padding: PaddingOption = Padding.exact,
    compile: Compile = False,
    tta: TTA = "",
    tta_flip: TTAFlip = True,
    allow: Allow = None,
    device: Device = "auto",
    devices: Devices = 1,
    offline: Offline = False,
) -> None:
    """Compute average precision of boxes, masks and keypoints, overall and per class.

    For a region proposal network: class-agnostic average recall of the best 100 and 1000 proposals.

    An image that cannot be read is listed and counts as an image without detections; the exit status is then 1.

    Example: rcnn eval runs/balloons --data balloons/ --output evaluated
    """
    require_places(data, output, images=images, own=METRICS_FILE)
    recorded = None
    if data is None:
        recorded = _recorded(checkpoint, split, annotations, images, relative_boxes)
        data, split, used = recorded.path, recorded.split, recorded.options
        annotations, images, relative_boxes = used.annotations, str(used.images), used.relative_boxes
        require_places(data, output, images=images, own=METRICS_FILE)
    from rcnn.data.opening import DatasetOptions
    from rcnn.evaluation.opening import open_subject
    from rcnn.evaluation.plan import EvaluationOptions
    from rcnn.evaluation.results import is_results
    from rcnn.metrics.tables import metrics_table
    from rcnn.runtime.processes import process_numbers

    if devices > 1 and not is_results(checkpoint):
        with output_or_new(output, "eval", checkpoint) as folder:
            launch(devices, device, more=["--output", str(folder)] if output is None else [], same_results=True)
        return
    is_first = process_numbers().is_first
    if is_results(checkpoint):
        changed = {
            "--tta": tta, "--precision": precision != "float32", "--padding": padding != "exact", "--compile": compile,
        }  # fmt: skip
        if names := [name for name, value in changed.items() if value]:
            raise ValueError(
                f"{', '.join(names)} cannot be used with saved results ({checkpoint}); leave "
                f"{'it' if len(names) == 1 else 'them'} out, or give the model instead of its results"
            )
        if not is_first:
            return  # one process is enough to score saved results

    def load(overrides: Sequence[str]) -> Predictor:
        return predictor_from(
            checkpoint, tta, tta_flip, device=device, precision=precision.value, padding=padding.value,
            overrides=overrides, allow=allow or (), compile=compile,
        )  # fmt: skip

    dataset_options = DatasetOptions(
        ignore_other_classes=ignore_other_classes, annotations=annotations, images=images,
        relative_boxes=relative_boxes, strict=strict, allow_empty=allow_empty,
    )  # fmt: skip
    options = EvaluationOptions(
        limit=limit, batch_size=batch_size, workers=workers, max_detections=max_detections, pictures=pictures,
        boundary=boundary, metric="" if metric is None else metric.value,
    )  # fmt: skip
    subject = open_subject(
        checkpoint, data, split, load=load, overrides=overrides or (), options=dataset_options, evaluation=options
    )
    require_apart_from_images(output, data, images, subject.dataset.image_folders, METRICS_FILE)
    changes: tuple[str, ...] = ()
    if recorded is not None:
        changes = recorded.changes(subject.dataset)
        same = "" if changes else f", as in the training of {checkpoint}"
        typer.echo(f"data set: {data}, split {subject.dataset.split}{same} (--data and --split choose others)")
    typer.echo(f"ground truth: {subject.dataset.annotation_file}")
    for line in (*changes, *subject.warnings, *subject.dataset.warnings):
        typer.echo(f"warning: {line}", err=True)
    for line in subject.dataset.notes:
        typer.echo(line)
    if not is_first:
        _evaluate(subject, Path(), options, checkpoint, overrides or (), ())
        return
    again = ["--data", str(data)]
    for option, value in (("--split", split), ("--annotations", annotations), ("--images", images)):
        again += [option, value] if value else []
    again += ["--metric", metric.value] if metric is not None else []
    again += ["--max-detections", str(max_detections)] if max_detections is not None else []
    again += ["--relative-boxes"] if relative_boxes else []
    for option, value in (("--allow-empty", allow_empty), ("--strict", strict), ("--boundary", boundary)):
        again += [option] if value else []
    with output_or_new(output, "eval", checkpoint) as folder:
        done = _evaluate(subject, folder, options, checkpoint, overrides or (), again)
    typer.echo(metrics_table(done.metrics, per_class=per_class))
    typer.echo(f"wrote {folder / 'metrics.json'}, {folder / 'report.html'}")
    if done.failed or subject.dataset.skipped_images:
        raise typer.Exit(1)


def _recorded(checkpoint: Path, split: str, annotations: str, images: str, relative_boxes: bool) -> RecordedData:
    """The data set that a checkpoint was trained on, with the options that it was read with where none are given."""
    from rcnn.data.opening import DatasetOptions
    from rcnn.evaluation.recorded_data import recorded_data

    given = DatasetOptions(annotations=annotations, images=images, relative_boxes=relative_boxes)
    return recorded_data([checkpoint], f"{checkpoint} does not record one", split, given)


def _evaluate(
    subject: Subject,
    folder: Path,
    options: EvaluationOptions,
    checkpoint: Path,
    overrides: Sequence[str],
    again: Sequence[str],
) -> Evaluation:
    """Evaluate with a progress bar; if that is stopped, print how to score the results so far, with options `again`."""
    import torch

    from rcnn.cli.progress import progress_bar
    from rcnn.evaluation.folder import UNFINISHED
    from rcnn.evaluation.run import run_evaluation
    from rcnn.predictor import Predictor
    from rcnn.runtime.compiled import CompiledDetector
    from rcnn.runtime.processes import joined

    if METRICS_FILE in files_of_rcnn(folder):
        typer.echo(f"{folder} has an earlier evaluation, which this one replaces", err=True)
    name, dataset, model = checkpoint.name, subject.dataset, subject.source
    details = {"Evaluated": str(checkpoint), "Ground truth": str(dataset.annotation_file)}
    if isinstance(model, Predictor):
        name = model.config.name
        how = f"{model.precision}, {model.padding} padding, {model.device.type}"
        details["Settings"] = ", ".join(
            (how, *(["compiled"] if isinstance(model.runner, CompiledDetector) else []), *overrides)
        )
    try:
        with joined(model.device if isinstance(model, Predictor) else torch.device("cpu")) as processes:
            return run_evaluation(
                model, dataset, folder, options=options, title=f"{name} on {dataset.split}", details=details,
                log=partial(typer.echo, err=True), progress=progress_bar, processes=processes,
            )  # fmt: skip
    except Stopped:
        if (folder / UNFINISHED).exists():
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                command = as_typed("rcnn", "eval", folder, *again)
                typer.echo(f"`{command}` scores the images that are done", err=True)
        raise
