"""`rcnn predict`: find objects in images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.early import is_setting, require_an_input, require_places, warn_of_photos, warn_of_repeats
from rcnn.cli.failures import DEBUG
from rcnn.cli.options import (
    TTA,
    Allow,
    Annotations,
    Compile,
    Device,
    Images,
    Offline,
    Padding,
    PaddingOption,
    Precision,
    PrecisionOption,
    TTAFlip,
)
from rcnn.cli.predict_split import SplitOptions, images_of_split, predict_split_command, require_one_input
from rcnn.cli.scores import chosen_filter, warn_of_dropped_scores
from rcnn.cli.views import predictor_from
from rcnn.cli.workers import Devices, launch
from rcnn.new_outputs import output_or_new
from rcnn.outputs import PREDICTIONS

if TYPE_CHECKING:
    from rcnn.cli.sources import SplitImages

SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*=")


def predict(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a checkpoint or of a run (its best/ is used), or a name from `rcnn models weights`."
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES_FOLDERS_PATTERNS_OR_URLS [KEY=VALUE]...",
            help="Images; folders are searched recursively; patterns in quotes: 'photos/**/*.jpg'. Settings, e.g. "
            "box.score_threshold=0.01.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Predict on a split of this data set instead, also without ground truth (COCO's test-dev2017), and "
            "write results files for COCO's evaluation server; with --format, --pictures or --json, the output of "
            "these options instead."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data. Defaults to the validation split.")] = "",
    annotations: Annotations = "",
    images: Images = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures and predictions.json (default: a new runs/predict-MODEL-N)."),
    ] = None,
    to_stdout: Annotated[
        bool, typer.Option("--json", help="Also print predictions.json on stdout, and nothing else there.")
    ] = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="Also write the detections as coco (results and a data set file), csv, labelme, yolo (polygons if "
            "the model has masks), yolo-boxes or masks (PNG of ids).",
        ),
    ] = "",
    copy_images: Annotated[
        bool,
        typer.Option(help="Copy the images beside their labels, for --format coco, labelme and yolo."),
    ] = True,
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="Write pictures with the detections, or only JSON. Defaults to pictures, with --data to none.",
        ),
    ] = None,
    contour: Annotated[
        bool, typer.Option("--contour", help="Draw the outlines of masks instead of their areas.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Write names and scores beside the boxes.")
    ] = True,
    line_width: Annotated[
        int | None,
        typer.Option(help="Width of the lines in pixels. By default, it depends on the image size.", min=1, max=100),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Skip detections with a lower score. A number; NAME=NUMBER,... for single classes; best, or the "
            "thresholds.json of an evaluation: the threshold with the best F1 for each class. Defaults to 0.5; for "
            "the results files of --data, and in Python, to 0.",
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Keep only detections of these classes, e.g. person,dog. Defaults to all.")
    ] = "",
    boxes: Annotated[
        Path | None,
        typer.Option(
            help='Score these boxes instead of detecting: JSON {"photo.jpg": \\[\\[x1, y1, x2, y2], ...]} in pixels of '
            "the image, a COCO annotation or results file, or predictions.json. A name means the image whose path ends "
            "with it (sub/photo.jpg: photos/sub/photo.jpg); the longest one counts."
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="With --boxes: also write the features of the boxes to this .npz file.")
    ] = None,
    keypoint_score: Annotated[
        float, typer.Option(help="Do not draw keypoints with a lower score; 0.05 is usual for persons.", min=0)
    ] = 0.0,
    limit: Annotated[
        int, typer.Option(help="Predict on the first N images only, or N frames of each video (0 = all).", min=0)
    ] = 0,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse images with more pixels (0 = no limit).", min=0)
    ] = 180_000_000,
    tile: Annotated[
        int,
        typer.Option(
            help="Predict on overlapping square tiles with this side in pixels, e.g. 1024, and merge the objects at "
            "their borders: for very large images (0 = whole images).",
            min=0,
        ),
    ] = 0,
    tile_overlap: Annotated[
        float, typer.Option(help="With --tile: overlap of two tiles, as a fraction of their side.", min=0, max=0.9)
    ] = 0.25,
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
    """Find objects in images; write pictures and OUTPUT/predictions.json.

    Files that rcnn did not write are never overwritten. An image that cannot be read is reported on stderr and under
    "failed" in the JSON; the others are processed, and the exit status is 1.

    For a video (.mp4, .mov, ...), write a video with the detections and a .jsonl file with one line per frame; this
    needs pip install 'rcnn\\[video]'.

    --format labelme and yolo write data sets that rcnn and other tools read: correct the labels, and train on them.

    With --boxes, each image has one entry per box of the file, in the same order: the box as given, clipped to the
    image, the most probable class, its score and mask.

    With --data alone, only results files in COCO's format are written, as its evaluation server accepts them. With
    --format, --pictures or --json too, the images of the split are predicted on like files; COCO's formats have the ids
    of the data set.

    Example: rcnn predict runs/balloons photos/ --output found --score 0.7
    """  # fmt: skip
    inputs, overrides = split_overrides(arguments or [])
    of_split = None if data is None else SplitOptions(
        data=data, split=split, annotations=annotations, images=images, limit=limit, tile=tile, overlap=tile_overlap,
        max_pixels=max_pixels,
    )  # fmt: skip
    require_one_input(of_split, {"--split": split, "--annotations": annotations, "--images": images}, inputs)
    require_places(data, output, images=images, own=PREDICTIONS)
    require_an_input(inputs)
    warn_of_photos(output, inputs)
    if of_split is not None and (boxes is not None or features is not None):
        raise ValueError("--boxes and --features are for images, not for a split of a data set; leave --data out")
    if compile and boxes is not None:
        raise ValueError("--boxes are scored without compilation; leave --compile out")
    if tile:
        require_tiles_fit(tile, tile_overlap, boxes)
    # imported after the checks above, because these modules import torch
    from rcnn.cli.formats import chosen_formats, require_masks, require_originals
    from rcnn.cli.frame_formats import require_copies
    from rcnn.cli.given import given_boxes
    from rcnn.cli.image_outcomes import ImageOptions
    from rcnn.cli.predict_images import predict_images, share_images
    from rcnn.cli.predict_video import predict_videos, videos_of
    from rcnn.data.messages import counted
    from rcnn.runtime.exported import is_exported
    from rcnn.runtime.processes import joined

    given = given_boxes(boxes, features, score or classes, tta)
    chosen = chosen_formats(formats)
    drawn = of_split is None if pictures is None else pictures
    videos = videos_of(inputs, given=given is not None)
    if videos:
        require_copies(chosen, copies=copy_images)
    else:
        require_originals(chosen, copies=copy_images, pictures=drawn)
    if videos and to_stdout:
        raise ValueError("--json is for images; the detections of a video are in its .jsonl file: leave --json out")
    if devices > 1:
        if given is not None:
            raise ValueError("--boxes are scored by one process; leave --devices out")
        if videos:
            raise ValueError("a video is predicted on by one process; leave --devices out")
        with output_or_new(output, "predict", checkpoint) as path:
            launch(devices, device, more=["--output", str(path)] if output is None else [], same_results=True)
        return
    predictor = predictor_from(
        checkpoint, tta, tta_flip, device=device, precision=precision.value, padding=padding.value, overrides=overrides,
        allow=allow or (), compile=compile,
    )  # fmt: skip
    if of_split is not None and not (chosen or drawn or to_stdout):
        keep = chosen_filter(score, classes, checkpoint, predictor.classes, default=0.0)
        predict_split_command(predictor, of_split, output, checkpoint, keep=keep)
        return
    keep = chosen_filter(score, classes, checkpoint, predictor.classes)
    if given is None:
        warn_of_dropped_scores(predictor.config, keep, is_fixed=is_exported(checkpoint))
    require_masks(chosen, predictor.config)
    found: Sequence[str] | SplitImages = inputs
    skipped = 0  # images of the split
    if of_split is not None:
        of_data, keep = images_of_split(predictor, of_split, keep)
        found, skipped = of_data, of_data.skipped
    options = ImageOptions(
        keep=keep, pictures=drawn, contour=contour, labels=labels, line_width=line_width,
        keypoint_score=keypoint_score, max_pixels=max_pixels,
        given=given, features=features, limit=limit, formats=chosen,
        copies=copy_images, tile=tile, overlap=tile_overlap, debug=DEBUG.get(),
    )  # fmt: skip
    if videos:
        predict_videos(predictor, videos, output, checkpoint, options)
        return
    with joined(predictor.device) as processes:
        if not processes.is_first:
            share_images(predictor, options, processes)
            return
        predictions = predict_images(predictor, found, output, checkpoint, options, processes)
    typer.echo(predictions.text if to_stdout else predictions.summary)
    if predictions.failed:
        typer.echo(f"{counted(len(predictions.failed), 'input')} failed", err=True)
    if predictions.failed or skipped:
        raise typer.Exit(1)


def require_tiles_fit(tile: int, overlap: float, boxes: Path | None) -> None:
    """Raise ValueError if --tile or --tile-overlap is out of range, or combined with --boxes, which excludes it."""
    from rcnn.tiles import check_tiling

    check_tiling(tile, overlap)
    if boxes is not None:
        raise ValueError("--boxes are scored in the whole image; leave --tile out")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The inputs and the KEY=VALUE settings among the arguments; a word that is the name of a file is an input."""
    overrides = [word for word in arguments if SETTING.match(word) and is_setting(word)]
    warn_of_repeats(overrides)
    return [word for word in arguments if word not in overrides], overrides
