"""`rcnn predict IMAGES`: pictures with the detections, and predictions.json."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rcnn.background import in_background
from rcnn.cli.given import keep_given, require_free, write_features
from rcnn.cli.progress import progress_bar
from rcnn.cli.sources import Source, Sources, expand
from rcnn.data.messages import counted, few
from rcnn.data.read_ahead import read_ahead
from rcnn.new_outputs import output_or_new
from rcnn.outputs import DISK_FULL, OutputFolder
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
OUTPUT_ERRORS = (*DISK_FULL, errno.EROFS)  # of the output, not of an input


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What is predicted and drawn: the options of the command for images."""

    score: float | None = None  # detections with a lower score are skipped; None: DEFAULT_SCORE
    pictures: bool = True  # draw the detections
    contour: bool = False  # draw the outlines of masks instead of their areas
    keypoint_score: float = 0.0  # keypoints with a lower score are not drawn
    max_pixels: int = 0  # larger images are refused; 0: no limit
    given: BoxFile | None = None  # boxes to score instead of detecting
    features: Path | None = None  # .npz file for the features of the boxes given


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was predicted."""

    text: str  # of predictions.json
    images: list[dict[str, Any]]  # the entries of predictions.json
    failed: list[tuple[str, str]]  # name of an input, and what is wrong with it
    folder: Path  # where they were written

    @property
    def summary(self) -> str:
        """How many objects were found, and where the results are."""
        objects = sum(len(entry["detections"]) for entry in self.images)
        where = f"; results in {self.folder}" if self.images else ""
        return f"{counted(objects, 'object')} in {counted(len(self.images), 'image')}{where}"


def predict_images(
    predictor: Predictor, inputs: Sequence[str], output: Path | None, checkpoint: Path, options: ImageOptions
) -> Predictions:
    """Predict on files, folders and URLs; write pictures and predictions.json to `output` (default: a new folder).

    Inputs that fail are reported on stderr. Raises ValueError if there is no image.
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
        if output is None:
            typer.echo(f"output folder: {path}", err=True)
        run = ImageRun(predictor=predictor, folder=folder, options=options)
        try:
            images = run.predict_all(sources)
        except Stopped:
            with suppress(OSError):  # the terminal is gone (SIGHUP)
                typer.echo(f"the results so far are in {path / PARTIAL}", err=True)
            raise
        text = _write_results(folder, images, sources.failed)
        if options.features is not None:
            write_features(options.features, folder, run.features)
    if options.given is not None and (unused := options.given.unused()):
        typer.echo(
            f"warning: {options.given.path} has boxes of images that were not predicted on: {few(unused)}", err=True
        )
    return Predictions(text=text, images=images, failed=sources.failed, folder=path)


def warn_of_dropped_scores(config: DetectorConfig, score: float | None) -> None:
    """Print a warning if the model itself drops detections that --score would keep."""
    key, lowest = lowest_score(config)
    score = DEFAULT_SCORE if score is None else score
    if score < lowest:
        typer.echo(
            f"warning: the model drops detections with a score below {key}={lowest:g}, which is more than --score "
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
    """The images of all inputs; reports on stderr what is not one. ValueError if there is none."""
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
    """One call of the command."""

    predictor: Predictor
    folder: OutputFolder
    options: ImageOptions
    features: list[tuple[str, RegionFeatures]] = field(default_factory=list)  # image, features of the boxes given

    def predict_all(self, sources: Sources) -> list[dict[str, Any]]:
        """The entries of predictions.json; each is on disk as soon as it is known. Failures go to `sources.failed`."""
        images: list[dict[str, Any]] = []
        partial_results = self.folder.claim(PARTIAL)
        with (
            partial_results.open("w", encoding="utf-8") as lines,
            progress_bar("predict", len(sources.images)) as advance,
        ):
            for source, image in read_ahead(sources.images, partial(in_background, self._read), READ_AHEAD):
                try:
                    entry = self._predict(source, image.result())
                    lines.write(json.dumps(entry) + "\n")
                    lines.flush()
                    images.append(entry)
                except Exception as error:  # one bad input must not stop the others
                    if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
                        raise OSError(error.errno, error.strerror, str(self.folder.path)) from error
                    reason = " ".join(str(error).removeprefix(source.name).lstrip(": ").split()) or type(error).__name__
                    sources.failed.append((source.name, reason))
                    typer.echo(f"{source.name}: {reason}", err=True)
                advance()
        return images

    def _predict(self, source: Source, image: Tensor) -> dict[str, Any]:
        """The entry of an image in predictions.json; its picture is written."""
        options = self.options
        boxes = None if options.given is None else options.given.of(source.name)
        features = None
        if boxes is not None and options.features is not None:
            result, features = self.predictor.predict_with_features(image, boxes)
        else:
            score = 0.0 if boxes is not None else DEFAULT_SCORE if options.score is None else options.score
            result = self.predictor.predict(image, score=score, boxes=boxes)
        if options.pictures:
            self._draw(source, result)
        if features is not None:
            self.features.append((source.name, features))
        size = {"height": result.height, "width": result.width}
        return {"file": source.name, **size, "detections": result.to_json()}

    def _read(self, source: Source) -> Tensor:
        from rcnn.data.images import read_image

        return read_image(source.read(), max_pixels=self.options.max_pixels)

    def _draw(self, source: Source, result: ImageDetections) -> None:
        picture = result.draw(contour=self.options.contour, keypoint_score=self.options.keypoint_score)
        with self.folder.writing(source.picture) as path:
            picture.save(path, "JPEG", quality=QUALITY)


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
