"""`rcnn predict`: find objects in images."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.given import given_boxes, keep_given, require_free, write_features
from rcnn.cli.options import (
    TTA,
    Allow,
    Annotations,
    Device,
    Images,
    Offline,
    Padding,
    PaddingOption,
    Precision,
    PrecisionOption,
    TTAFlip,
)
from rcnn.cli.predict_split import SplitOptions, predict_split_command, require_alone
from rcnn.cli.progress import progress_bar
from rcnn.cli.sources import Source, Sources, expand, read_ahead
from rcnn.cli.views import predictor_from
from rcnn.outputs import OutputFolder, output_or_new
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.data.given_boxes import BoxFile
    from rcnn.models.config import DetectorConfig
    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections, RegionFeatures

READ_AHEAD = 2  # images decoded before they are needed
DEFAULT_SCORE = 0.5
QUALITY = 92  # of the JPEG pictures
RESULTS = "predictions.json"
PARTIAL = "predictions.partial.jsonl"  # one line per image while the command runs
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # of the output, not of an input
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def predict(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a checkpoint or of a run (its best/ is used), or a name from `rcnn models weights`."
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES_FOLDERS_OR_URLS [KEY=VALUE]...",
            help="Images; folders are searched recursively. Settings, e.g. box.score_threshold=0.01.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Predict on a split of this data set instead, also without ground truth (COCO's test-dev2017), and "
            "write results files for COCO's server."
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
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Write pictures with the detections, or only JSON.")
    ] = True,
    contour: Annotated[
        bool, typer.Option("--contour", help="Draw the outlines of masks instead of their areas.")
    ] = False,
    score: Annotated[
        float | None,
        typer.Option(
            help="Skip detections with a lower score. Defaults to 0.5; with --data, and in Python, to 0.",
            min=0,
            max=1,
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help='Score these boxes instead of detecting: JSON {"photo.jpg": [[x1, y1, x2, y2], ...]} in pixels of the '
            "image, a COCO annotation or results file, or predictions.json."
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="With --boxes: also write the features of the boxes to this .npz file.")
    ] = None,
    keypoint_score: Annotated[
        float, typer.Option(help="Do not draw keypoints with a lower score; 0.05 is usual for persons.", min=0)
    ] = 0.0,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse images with more pixels (0 = no limit).", min=0)
    ] = 180_000_000,
    precision: PrecisionOption = Precision.float32,
    padding: PaddingOption = Padding.exact,
    tta: TTA = "",
    tta_flip: TTAFlip = True,
    allow: Allow = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Find objects in images; write pictures and OUTPUT/predictions.json.

    Files that rcnn did not write are never overwritten. An image that cannot be read is reported on stderr and under
    "failed" in the JSON; the others are processed, and the exit status is 1.

    With --boxes, each image gets one entry per box of the file, in its order: the box as given, the most probable
    class, its score and mask.

    With --data and --split, only results files in COCO's format are written: those that its server takes.

    Example: rcnn predict runs/balloons photos/ --output found --score 0.7
    """  # fmt: skip
    from rcnn.data.messages import counted, few

    words, settings = split_settings(inputs or [])
    chosen = None if data is None else SplitOptions(data=data, split=split, annotations=annotations, images=images)
    require_alone(chosen, split, words)
    if chosen is not None and (boxes is not None or features is not None):
        raise ValueError("--boxes and --features are for images, not for a split of a data set; leave --data out")
    given = given_boxes(boxes, features, score, tta)
    predictor = predictor_from(
        checkpoint, tta, tta_flip, device=device, precision=precision.value, padding=padding.value, settings=settings,
        allow=allow or (),
    )  # fmt: skip
    if chosen is not None:
        predict_split_command(predictor, chosen, output, checkpoint, score=score or 0.0)
        return
    key, lowest = _lowest_score(predictor.config)
    score = 0.0 if given is not None else DEFAULT_SCORE if score is None else score
    if given is None and score < lowest:
        typer.echo(
            f"warning: the model drops detections with a score below {key}={lowest:g}, which is more than --score "
            f"{score:g}; add {key}={score:g}",
            err=True,
        )
    with output_or_new(output, "predict", checkpoint) as path, OutputFolder(path) as folder:
        folder.require_free(RESULTS, PARTIAL)
        if features is not None:
            require_free(features, folder)
        sources = expand(words, folder)
        if not sources.images:
            reasons = [f"{name} {reason}" for name, reason in sources.failed]
            raise ValueError(f"no image to predict on: {few(reasons) or 'give files, folders or URLs'}")
        if output is None:
            typer.echo(f"output folder: {path}", err=True)
        if sources.skipped:
            typer.echo(f"not images, skipped: {few(sources.skipped)}", err=True)
        for name, reason in sources.failed:
            typer.echo(f"{name}: {reason}", err=True)
        if given is not None and (without := keep_given(sources, given)):
            typer.echo(
                f"{counted(len(without), 'image')} without an entry in {given.path}, skipped: {few(without)}", err=True
            )
        run = _Run(
            predictor=predictor, folder=folder, score=score, contour=contour, keypoint_score=keypoint_score,
            pictures=pictures, max_pixels=max_pixels, given=given, describe=features is not None,
        )  # fmt: skip
        try:
            done = run.predict_all(sources)
        except Stopped:
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                typer.echo(f"the results so far are in {path / PARTIAL}", err=True)
            raise
        text = _write_results(folder, done, sources.failed)
        if features is not None:
            write_features(features, folder, run.described)
        if given is not None and (unused := given.unused()):
            typer.echo(f"warning: {given.path} has boxes of images that were not predicted on: {few(unused)}", err=True)
    if to_stdout:
        typer.echo(text)
    else:
        objects = sum(len(entry["detections"]) for entry in done)
        where = f"; results in {path}" if done else ""
        typer.echo(f"{counted(objects, 'object')} in {counted(len(done), 'image')}{where}")
    if sources.failed:
        typer.echo(f"{counted(len(sources.failed), 'input')} failed", err=True)
        raise typer.Exit(1)


class _Run:
    """The settings of one call of the command."""

    def __init__(
        self,
        *,
        predictor: Predictor,
        folder: OutputFolder,
        score: float,
        contour: bool,
        keypoint_score: float,
        pictures: bool,
        max_pixels: int,
        given: BoxFile | None = None,
        describe: bool = False,
    ) -> None:
        """`given` are boxes to score instead of detecting; `describe`: keep the features of these in `described`."""
        self.predictor, self.folder, self.score, self.max_pixels = predictor, folder, score, max_pixels
        self.pictures, self.contour, self.keypoint_score = pictures, contour, keypoint_score
        self.given, self.describe = given, describe
        self.described: list[tuple[str, RegionFeatures]] = []  # name of the image, features of its boxes

    def predict_all(self, sources: Sources) -> list[dict[str, Any]]:
        """The entries of predictions.json; each is on disk as soon as it is known. Failures go to `sources.failed`."""
        done: list[dict[str, Any]] = []
        partial = self.folder.claim(PARTIAL)
        with partial.open("w", encoding="utf-8") as lines, progress_bar("predict", len(sources.images)) as advance:
            for source, image in read_ahead(sources.images, self._read, READ_AHEAD):
                try:
                    if isinstance(image, Exception):
                        raise image
                    rows = None if self.given is None else self.given.of(source.name)
                    result = self.predictor.predict(image, score=self.score, boxes=rows)
                    described = None
                    if rows is not None and self.describe:
                        described = self.predictor.features(image, rows)
                    if self.pictures:
                        self._draw(source, result)
                    entry = {"file": source.name, "height": result.height, "width": result.width}
                    done.append(entry | {"detections": result.to_json()})
                    lines.write(json.dumps(done[-1]) + "\n")
                    lines.flush()
                    if described is not None:
                        self.described.append((source.name, described))
                except Exception as error:  # one bad input never costs the others
                    if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
                        raise OSError(error.errno, error.strerror, str(self.folder.path)) from error
                    reason = " ".join(str(error).removeprefix(source.name).lstrip(": ").split()) or type(error).__name__
                    sources.failed.append((source.name, reason))
                    typer.echo(f"{source.name}: {reason}", err=True)
                advance()
        return done

    def _read(self, source: Source) -> Tensor:
        from rcnn.data.images import read_image

        return read_image(source.read(), max_pixels=self.max_pixels)

    def _draw(self, source: Source, result: ImageDetections) -> None:
        picture = result.draw(contour=self.contour, keypoint_score=self.keypoint_score)
        with self.folder.writing(source.picture) as path:
            picture.save(path, "JPEG", quality=QUALITY)


def _write_results(folder: OutputFolder, done: Sequence[dict[str, Any]], failed: Sequence[tuple[str, str]]) -> str:
    """Write predictions.json, and return its text. Earlier results stay if no image could be processed."""
    results: dict[str, Any] = {"images": done}
    if failed:
        results["failed"] = [{"file": name, "error": reason} for name, reason in failed]
    text = json.dumps(results)
    if done or not (folder.path / RESULTS).exists():
        folder.write_text(RESULTS, text + "\n")
    else:
        typer.echo(f"kept the earlier {folder.path / RESULTS}: no image could be processed", err=True)
    (folder.path / PARTIAL).unlink()
    return text


def _lowest_score(config: DetectorConfig) -> tuple[str, float]:
    """The setting that drops detections with a lower score, and its value."""
    if config.proposals_only:
        return "rpn.proposals.score_threshold", config.rpn.proposals.score_threshold
    if config.fcis is not None:
        return "fcis.score_threshold", config.fcis.score_threshold
    return "box.score_threshold", config.box.score_threshold


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The inputs and the KEY=VALUE settings among the arguments; a file of that name is an input."""
    settings = [word for word in words if SETTING.match(word) and not Path(word).exists()]
    return [word for word in words if word not in settings], settings
