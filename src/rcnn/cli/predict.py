"""`rcnn predict`: find objects in images."""

from __future__ import annotations

import errno
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.given import given_boxes, require_free, write_features
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
from rcnn.cli.workers import Devices, launch
from rcnn.outputs import OutputFolder, output_or_new
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.data.given_boxes import BoxFile
    from rcnn.models.config import DetectorConfig
    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections, RegionFeatures
    from rcnn.runtime.processes import Processes

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
    devices: Devices = 1,
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
    if devices > 1:
        if given is not None:
            raise ValueError("--boxes are scored by one process; leave --devices out")
        with output_or_new(output, "predict", checkpoint) as path:
            launch(devices, device, more=["--output", str(path)] if output is None else [])
        return
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
    from rcnn.runtime.processes import joined

    run = _Run(
        predictor=predictor, score=score, contour=contour, keypoint_score=keypoint_score, pictures=pictures,
        max_pixels=max_pixels, given=given, describe=features is not None,
    )  # fmt: skip
    with joined(predictor.device) as processes:
        if not processes.is_first:
            for _ in run.outcomes(processes.share(list[Source]()), processes):
                pass  # the first process gets them
            return
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
            try:
                done = run.predict_all(sources, folder, processes)
            except Stopped:
                with suppress(OSError):  # the terminal is gone (SIGHUP)
                    typer.echo(f"the results so far are in {path / PARTIAL}", err=True)
                raise
            text = _write_results(folder, done, sources.failed)
            if features is not None:
                write_features(features, folder, run.described)
            if given is not None and (unused := given.unused()):
                typer.echo(
                    f"warning: {given.path} has boxes of images that were not predicted on: {few(unused)}", err=True
                )
    if to_stdout:
        typer.echo(text)
    else:
        objects = sum(len(entry["detections"]) for entry in done)
        where = f"; results in {path}" if done else ""
        typer.echo(f"{counted(objects, 'object')} in {counted(len(done), 'image')}{where}")
    if sources.failed:
        typer.echo(f"{counted(len(sources.failed), 'input')} failed", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of one image."""

    entry: dict[str, Any] | None = None  # of predictions.json; None: it failed
    picture: bytes = b""  # JPEG; empty: none was asked for
    features: RegionFeatures | None = None
    error: str = ""


class _Run:
    """The settings of one call of the command."""

    def __init__(
        self,
        *,
        predictor: Predictor,
        score: float,
        contour: bool,
        keypoint_score: float,
        pictures: bool,
        max_pixels: int,
        given: BoxFile | None = None,
        describe: bool = False,
    ) -> None:
        """`given` are boxes to score instead of detecting; `describe`: keep the features of these in `described`."""
        self.predictor, self.score, self.max_pixels = predictor, score, max_pixels
        self.pictures, self.contour, self.keypoint_score = pictures, contour, keypoint_score
        self.given, self.describe = given, describe
        self.described: list[tuple[str, RegionFeatures]] = []  # name of the image, features of its boxes

    def predict_all(self, sources: Sources, folder: OutputFolder, processes: Processes) -> list[dict[str, Any]]:
        """The entries of predictions.json; each is on disk as soon as it is known. Failures go to `sources.failed`."""
        done: list[dict[str, Any]] = []
        images = processes.share(sources.images)
        partial = folder.claim(PARTIAL)
        with partial.open("w", encoding="utf-8") as lines, progress_bar("predict", len(images)) as advance:
            for source, outcome in zip(images, self.outcomes(images, processes), strict=True):
                if outcome.entry is None:
                    sources.failed.append((source.name, outcome.error))
                    typer.echo(f"{source.name}: {outcome.error}", err=True)
                else:
                    self._write(folder, lines, source, outcome)
                    done.append(outcome.entry)
                advance()
        return done

    def _write(self, folder: OutputFolder, lines: IO[str], source: Source, outcome: _Outcome) -> None:
        """Write the picture, then the line of the image."""
        try:
            if outcome.picture:
                self._write_picture(folder, source, outcome.picture)
            lines.write(json.dumps(outcome.entry) + "\n")
            lines.flush()
        except OSError as error:
            if error.errno in OUTPUT_ERRORS:
                raise OSError(error.errno, error.strerror, str(folder.path)) from error
            raise
        if outcome.features is not None:
            self.described.append((source.name, outcome.features))

    def _write_picture(self, folder: OutputFolder, source: Source, picture: bytes) -> None:
        with folder.writing(source.picture) as path:
            path.write_bytes(picture)

    def outcomes(self, images: Sequence[Source], processes: Processes) -> Iterator[_Outcome]:
        """What became of each image, in order, on the first process; the others yield none."""
        own = [images[place] for place in processes.own_places(len(images), 1)]
        found = (self._outcome(source, image) for source, image in read_ahead(own, self._read, READ_AHEAD))
        return processes.in_order(found, len(images), 1)

    def _outcome(self, source: Source, image: Tensor | Exception) -> _Outcome:
        try:
            if isinstance(image, Exception):
                raise image
            rows = None if self.given is None else self.given.of(source.name)
            result = self.predictor.predict(image, score=self.score, boxes=rows)
            described = None
            if rows is not None and self.describe:
                described = self.predictor.features(image, rows)
            picture = self._picture(result) if self.pictures else b""
            entry = {"file": source.name, "height": result.height, "width": result.width}
            return _Outcome(entry=entry | {"detections": result.to_json()}, picture=picture, features=described)
        except Exception as error:  # one bad input never costs the others
            reason = " ".join(str(error).removeprefix(source.name).lstrip(": ").split()) or type(error).__name__
            return _Outcome(error=reason)

    def _read(self, source: Source) -> Tensor:
        from rcnn.data.images import read_image

        return read_image(source.read(), max_pixels=self.max_pixels)

    def _picture(self, result: ImageDetections) -> bytes:
        file = io.BytesIO()
        result.draw(contour=self.contour, keypoint_score=self.keypoint_score).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()


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
