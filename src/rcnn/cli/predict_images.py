"""`rcnn predict IMAGES`: pictures with the detections, and predictions.json."""

from __future__ import annotations

import errno
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from rcnn.background import in_background
from rcnn.cli.formats import (
    WITH_IMAGES,
    copy_image,
    files_of_image,
    missing_images,
    names_of_outputs,
    remove_stale,
    write_tables,
)
from rcnn.cli.given import keep_given, require_free, write_features
from rcnn.cli.progress import progress_bar
from rcnn.cli.scores import Filter
from rcnn.cli.sources import Source, Sources, expand
from rcnn.data.messages import counted, few
from rcnn.data.read_ahead import ReadAhead, read_ahead
from rcnn.new_outputs import output_or_new
from rcnn.outputs import DISK_FULL, OutputFolder
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import Tensor

    from rcnn.data.given_boxes import BoxFile
    from rcnn.models.config import DetectorConfig
    from rcnn.predictor import Predictor
    from rcnn.preprocess import Frame
    from rcnn.region_features import RegionFeatures
    from rcnn.results import ImageDetections
    from rcnn.runtime.processes import Processes

READ_AHEAD = 2  # images decoded before they are needed
DRAWN_BESIDE = 1  # images that are drawn while the model works on the next one
QUALITY = 92  # of the JPEG pictures
MAX_SIDE = 65_500  # limit of JPEG, pixels
RESULTS = "predictions.json"
PARTIAL = "predictions.partial.jsonl"  # one line per image while the command runs
OUTPUT_ERRORS = (*DISK_FULL, errno.EROFS)  # of the output, not of an input


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The options of `rcnn predict` for images and videos."""

    keep: Filter = field(default_factory=Filter)  # which detections are kept
    pictures: bool = True  # draw the detections
    contour: bool = False  # draw the outlines of masks instead of their areas
    labels: bool = True  # write names and scores beside the boxes
    line_width: int | None = None  # pixels; None: depends on the image size
    keypoint_score: float = 0.0  # keypoints with a lower score are not drawn
    max_pixels: int = 0  # larger images are refused; 0: no limit
    limit: int = 0  # images, the first ones; 0: all
    given: BoxFile | None = None  # boxes to score instead of detecting
    features: Path | None = None  # .npz file for the features of the boxes given
    formats: tuple[str, ...] = ()  # besides predictions.json
    tile: int = 0  # side of the tiles that an image is divided into, pixels; 0: none
    overlap: float = 0.25  # of a tile's side, shared with the next one
    copies: bool = True  # images are copied beside their labels, for the formats that are data sets


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of one call of the command."""

    text: str  # of predictions.json
    images: list[dict[str, Any]]  # the entries of predictions.json
    failed: list[tuple[str, str]]  # name of an input, and what is wrong with it
    folder: Path  # where they were written

    @property
    def summary(self) -> str:
        """The number of objects found, and the folder of the results."""
        objects = sum(len(entry["detections"]) for entry in self.images)
        where = f"; results in {self.folder}" if self.images else ""
        return f"{counted(objects, 'object')} in {counted(len(self.images), 'image')}{where}"


def predict_images(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path | None,
    checkpoint: Path,
    options: ImageOptions,
    processes: Processes,
) -> Predictions:
    """Predict on files, folders and URLs; write pictures and predictions.json to `output` (default: a new folder).

    The first of the `processes` calls this, the others `share_images`. Inputs that fail are reported on stderr. Raises
    ValueError if there is no image.
    """
    with output_or_new(output, "predict", checkpoint) as path, OutputFolder(path) as folder:
        folder.require_free(RESULTS, PARTIAL)
        if options.features is not None:
            require_free(options.features, folder)
        sources = _find_sources(inputs, folder)
        if options.given is not None and (without := keep_given(sources, options.given)):
            typer.echo(
                f"{counted(len(without), 'image')} without an entry in {options.given.path}, skipped: {few(without)}",
                err=True,
            )
        if options.limit:
            del sources.images[options.limit :]
        folder.require_free(*names_of_outputs(options.formats, sources.images, copies=options.copies))
        if output is None:
            typer.echo(f"output folder: {path}", err=True)
        run = ImageRun(predictor=predictor, folder=folder, options=options)
        try:
            images = run.predict_all(sources, processes)
        except Stopped:
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                typer.echo(f"the results so far are in {path / PARTIAL}", err=True)
            raise
        text = _write_results(folder, images, sources.failed)
        keypoint = predictor.config.keypoint
        names = () if keypoint is None else keypoint.names
        copied = sources.images if options.copies else ()
        write_tables(folder, options.formats, images, predictor.classes, names, copied)
        if images and options.formats:
            _remove_stale(folder, options, sources.images, images)
            for line in [] if options.copies else missing_images(path, options.formats):
                typer.echo(line, err=True)
        if options.features is not None:
            write_features(options.features, folder, run.features)
    if options.given is not None and (unused := options.given.unused()):
        typer.echo(
            f"warning: {options.given.path} has boxes for images that were not predicted on: {few(unused)}", err=True
        )
    return Predictions(text=text, images=images, failed=sources.failed, folder=path)


def share_images(predictor: Predictor, output: Path, options: ImageOptions, processes: Processes) -> None:
    """Predict on this process's part of the images; the first process collects the outcomes and writes them."""
    for _ in outcomes(predictor, output, options, processes.share(list[Source]()), processes):
        raise AssertionError("only the first process gets outcomes")


def warn_of_dropped_scores(config: DetectorConfig, keep: Filter) -> None:
    """Print a warning if the model itself drops detections that --score would keep."""
    key, lowest = lowest_score(config)
    score = keep.lowest
    if score < lowest:
        typer.echo(
            f"warning: the model drops detections with a score below {key}={lowest:g}, which is higher than --score "
            f"{score:g}; add {key}={score:g}",
            err=True,
        )


def lowest_score(config: DetectorConfig) -> tuple[str, float]:
    """The setting that drops detections with a lower score, and its value."""
    if config.proposals_only:
        return "rpn.proposals.score_threshold", config.rpn.proposals.score_threshold
    if config.fcis is not None:
        return "fcis.score_threshold", config.fcis.score_threshold
    return "box.score_threshold", config.box.score_threshold


def _find_sources(inputs: Sequence[str], folder: OutputFolder) -> Sources:
    """The images of all inputs; prints the other inputs on stderr. ValueError if there is no image."""
    sources = expand(inputs, folder)
    if not sources.images:
        reasons = [f"{name} {reason}" for name, reason in sources.failed]
        raise ValueError(f"no image to predict on: {few(reasons) or 'give files, folders or URLs'}")
    if sources.skipped:
        typer.echo(f"not images, skipped: {few(sources.skipped)}", err=True)
    for name, reason in sources.failed:
        typer.echo(f"{name}: {reason}", err=True)
    return sources


@dataclass(kw_only=True)
class ImageRun:
    """Writes the predictions of one call of the command."""

    predictor: Predictor
    folder: OutputFolder
    options: ImageOptions
    features: list[tuple[str, RegionFeatures]] = field(default_factory=list)  # image, features of the boxes given

    def predict_all(self, sources: Sources, processes: Processes) -> list[dict[str, Any]]:
        """The entries of predictions.json, each written to PARTIAL at once. Failures are added to `sources.failed`."""
        images: list[dict[str, Any]] = []
        shared = processes.share(sources.images)
        partial_results = self.folder.claim(PARTIAL)
        with partial_results.open("w", encoding="utf-8") as lines, progress_bar("predict", len(shared)) as advance:
            for source, outcome in zip(
                shared, outcomes(self.predictor, self.folder.path, self.options, shared, processes), strict=True
            ):
                if outcome.entry is None:
                    sources.failed.append((source.name, outcome.error))
                    typer.echo(f"{source.name}: {outcome.error}", err=True)
                else:
                    self._write(lines, source, outcome)
                    images.append(outcome.entry)
                advance()
        return images

    def _write(self, lines: IO[str], source: Source, outcome: Outcome) -> None:
        """Write the picture and the files of an image, then its line of PARTIAL."""
        try:
            if outcome.picture:
                self._write_file(source.picture, outcome.picture)
            for name, content in outcome.files.items():
                self._write_file(name, content)
            for name in self.options.formats:
                if self.options.copies and name in WITH_IMAGES:
                    copy_image(self.folder, name, source, outcome.content)
            lines.write(json.dumps(outcome.entry) + "\n")
            lines.flush()
        except OSError as error:
            if error.errno in OUTPUT_ERRORS:
                raise OSError(error.errno, error.strerror, error.filename or str(self.folder.path)) from error
            raise
        if outcome.features is not None:
            self.features.append((source.name, outcome.features))

    def _write_file(self, name: str, content: bytes) -> None:
        with self.folder.writing(name) as path:
            path.write_bytes(content)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one image, ready to be written, or its error."""

    entry: dict[str, Any] | None = None  # of predictions.json; None: it failed
    picture: bytes = b""  # JPEG; empty: none is drawn
    files: dict[str, bytes] = field(default_factory=dict)  # of --format: names in the output folder, and contents
    content: bytes | None = None  # of a download that is to be copied
    features: RegionFeatures | None = None  # of the boxes given
    error: str = ""


def outcomes(
    predictor: Predictor, output: Path, options: ImageOptions, images: Sequence[Source], processes: Processes
) -> Iterator[Outcome]:
    """The outcome of each image, in order, on the first process; the others yield none.

    While the model works on an image, threads read the next ones, and encode and draw the one before.
    """
    own = [images[place] for place in processes.own_places(len(images), 1)]
    read = read_ahead(own, partial(in_background, partial(_read, predictor, options)), READ_AHEAD)
    return processes.in_order(_finished(predictor, output, options, read, processes), len(images), 1)


def _finished(
    predictor: Predictor, output: Path, options: ImageOptions, read: ReadAhead[Source, ReadImage], processes: Processes
) -> Iterator[Outcome]:
    """The outcomes of images that are being read, in order; a finished one does not wait until the next one is read."""
    drawn: deque[Future[Outcome]] = deque()
    for source, image in read:
        while drawn and (len(drawn) > DRAWN_BESIDE or not image.done()):
            yield drawn.popleft().result()
        processes.doing(f"the prediction on {source.name}")
        detected = _detect(predictor, options, source, image)
        drawn.append(in_background(partial(_finish, output, options, detected)))
    for outcome in drawn:
        yield outcome.result()


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """One image before the model."""

    pixels: Tensor  # (3, H, W) uint8 RGB
    prepared: tuple[Tensor, Frame] | None  # what `Predictor.prepare` returns; None with given boxes or with tiles
    content: bytes | None  # of a download; None: a file


@dataclass(frozen=True, kw_only=True)
class DetectedImage:
    """One image after the model: its detections, or the error."""

    source: Source
    found: ImageDetections | Exception
    content: bytes | None = None  # of a download that is to be copied
    features: RegionFeatures | None = None


def _read(predictor: Predictor, options: ImageOptions, source: Source) -> ReadImage:
    from rcnn.data.images import read_image

    content = source.read()
    pixels = read_image(content, max_pixels=options.max_pixels)
    return ReadImage(
        pixels=pixels,
        prepared=predictor.prepare(pixels) if options.given is None and not options.tile else None,
        content=content if isinstance(content, bytes) else None,
    )


def _detect(predictor: Predictor, options: ImageOptions, source: Source, read: Future[ReadImage]) -> DetectedImage:
    """The detections of the model in an image, or the scores of its given boxes."""
    from rcnn.results import ImageSource
    from rcnn.tiles import predict_tiled

    features = None
    try:
        image = read.result()
        boxes = None if options.given is None else options.given.of(source.name)
        if boxes is not None and options.features is not None:
            found, features = predictor.predict_with_features(image.pixels, boxes)
        elif options.tile:
            found = predict_tiled(
                predictor, image.pixels, tile=options.tile, overlap=options.overlap, score=options.keep.score,
                max_pixels=0,
            )  # fmt: skip
        elif image.prepared is not None:
            resized, frame = image.prepared
            found = replace(predictor.detect([resized], [frame])[0], source=ImageSource(image=image.pixels))
        else:
            found = predictor.predict(image.pixels, boxes=boxes)
    except Exception as error:  # one bad input must not stop the others
        return DetectedImage(source=source, found=error)
    return DetectedImage(source=source, found=found, content=image.content, features=features)


def _finish(output: Path, options: ImageOptions, image: DetectedImage) -> Outcome:
    """The entry of an image in predictions.json, its picture and its files of other formats."""
    source = image.source
    if isinstance(image.found, Exception):
        return Outcome(error=_reason(image.found, source))
    try:
        result = options.keep.apply(image.found) if options.given is None else image.found
        entry: dict[str, Any] = {"file": source.name, "height": result.height, "width": result.width}
        copied = options.copies and any(name in WITH_IMAGES for name in options.formats)
        return Outcome(
            entry=entry | {"detections": result.to_json()},
            picture=_picture(result, options) if options.pictures else b"",
            files=files_of_image(result, source, options.formats, output, copies=options.copies),
            features=image.features,
            content=image.content if copied else None,
        )
    except Exception as error:
        return Outcome(error=_reason(error, source))


def _reason(error: Exception, source: Source) -> str:
    """The message of an error in one line, without the name of the image, which is printed before it."""
    return " ".join(str(error).removeprefix(source.name).lstrip(": ").split()) or type(error).__name__


def _picture(result: ImageDetections, options: ImageOptions) -> bytes:
    file = io.BytesIO()
    picture = result.draw(
        contour=options.contour,
        keypoint_score=options.keypoint_score,
        labels=options.labels,
        line_width=options.line_width,
    )
    picture.thumbnail((MAX_SIDE, MAX_SIDE))  # does not change smaller pictures
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _remove_stale(
    folder: OutputFolder, options: ImageOptions, sources: Sequence[Source], images: Sequence[dict[str, Any]]
) -> None:
    """Remove the files of the chosen formats that an earlier call wrote for other images; prints how many."""
    done = {entry["file"] for entry in images}
    succeeded = [source for source in sources if source.name in done]
    kept = {*names_of_outputs(options.formats, succeeded, copies=options.copies)}
    if removed := remove_stale(folder, options.formats, kept):
        typer.echo(
            f"{folder.path}: removed {counted(removed, 'file')} of an earlier prediction on other images", err=True
        )


def _write_results(folder: OutputFolder, images: Sequence[dict[str, Any]], failed: Sequence[tuple[str, str]]) -> str:
    """Write predictions.json, and return its text. Earlier results stay if no image could be processed."""
    results: dict[str, Any] = {"images": images}
    if failed:
        results["failed"] = [{"file": name, "error": reason} for name, reason in failed]
    text = json.dumps(results)
    if images or not (folder.path / RESULTS).exists():
        folder.write_text(RESULTS, text + "\n")
    else:
        typer.echo(f"kept the earlier {folder.path / RESULTS}: no image could be processed", err=True)
    (folder.path / PARTIAL).unlink()
    return text
