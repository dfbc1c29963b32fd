"""`rcnn predict IMAGES`: pictures with the detections, and predictions.json."""

from __future__ import annotations

import errno
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from rcnn.cli.formats import (
    WITH_IMAGES,
    copy_image,
    folders_of,
    missing_images,
    names_of_outputs,
    outputs_of_others,
    remove_stale,
    write_tables,
)
from rcnn.cli.given import keep_given, print_warnings, require_free, write_features
from rcnn.cli.image_outcomes import ImageOptions, Outcome, outcomes
from rcnn.cli.progress import progress_bar
from rcnn.cli.sources import Source, Sources, SplitImages, expand, sources_of_split
from rcnn.data.messages import counted, few
from rcnn.new_outputs import output_or_new
from rcnn.outputs import DISK_FULL, PARTIAL, PREDICTIONS, OutputFolder
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from rcnn.predictor import Predictor
    from rcnn.region_features import RegionFeatures
    from rcnn.runtime.processes import Processes

OUTPUT_ERRORS = (*DISK_FULL, errno.EROFS)  # of the output, not of an input


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
    inputs: Sequence[str] | SplitImages,
    output: Path | None,
    checkpoint: Path,
    options: ImageOptions,
    processes: Processes,
) -> Predictions:
    """Predict on files, folders and URLs, or on the images of a split; write pictures and predictions.json to `output`.

    `output` defaults to a new folder. The first of the `processes` calls this, the others `share_images`. Inputs that
    fail are reported on stderr. Raises ValueError if there is no image.
    """
    with output_or_new(output, "predict", checkpoint) as path, OutputFolder(path) as folder:
        folder.require_free(PREDICTIONS, PARTIAL)
        if options.features is not None:
            require_free(options.features, folder)
        sources = _find_sources(inputs, folder, folders_of(options.formats))
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
        earlier = _earlier_pictures(folder)
        text = _write_results(folder, images, sources.failed)
        done = {entry["file"] for entry in images}
        succeeded = [source for source in sources.images if source.name in done]
        if images and options.formats:
            keypoint = predictor.config.keypoint
            names = () if keypoint is None else keypoint.names
            copied = succeeded if options.copies else ()
            split = inputs if isinstance(inputs, SplitImages) else None
            write_tables(folder, options.formats, images, predictor.classes, names, copied, split)
            for line in [] if options.copies else missing_images(path, options.formats):
                typer.echo(line, err=True)
        if images:
            others = outputs_of_others(folder, options.formats)
            if options.pictures:
                earlier -= {source.picture for source in sources.images}
            else:
                others += sorted(earlier)
                earlier = set[str]()
            remove_stale_files(folder, options.formats, sources.images, earlier, copies=options.copies)
            if others:
                typer.echo(f"{path}: of an earlier prediction, not written again: {few(others)}", err=True)
        if images and options.features is not None:
            write_features(options.features, folder, run.features)
    if options.given is not None:
        print_warnings(options.given, images)
    return Predictions(text=text, images=images, failed=sources.failed, folder=path)


def share_images(predictor: Predictor, options: ImageOptions, processes: Processes) -> None:
    """Predict on this process's part of the images; the first process collects the outcomes and writes them."""
    folder, shared = processes.share((Path(), list[Source]()))
    for _ in outcomes(predictor, folder, options, shared, processes):
        raise AssertionError("only the first process gets outcomes")


def _find_sources(inputs: Sequence[str] | SplitImages, folder: OutputFolder, reserved: Collection[str]) -> Sources:
    """The images of all inputs; prints the other inputs on stderr. ValueError if there is no image.

    Pictures are not written to the folders `reserved`.
    """
    if isinstance(inputs, SplitImages):
        return sources_of_split(inputs, folder, reserved)
    sources = expand(inputs, folder, reserved)
    if not sources.images:
        reasons = [f"{name} {reason}" for name, reason in sources.failed]
        raise ValueError(f"no image to predict on: {few(reasons) or 'give files, folders or URLs'}")
    if sources.damaged:
        lines = f"{counted(len(sources.damaged), 'line')} of `.rcnn-files` among the images"
        wrong = "is no entry and was" if len(sources.damaged) == 1 else "are no entries and were"
        typer.echo(
            f"warning: {lines} {wrong} skipped: {few(sources.damaged)}. A picture that such a line named is predicted "
            "on as an image; remove it if you do not want that",
            err=True,
        )
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
        folder, shared = processes.share((self.folder.path, sources.images))
        partial_results = self.folder.claim(PARTIAL)
        with partial_results.open("w", encoding="utf-8") as lines, progress_bar("predict", len(shared)) as advance:
            for source, outcome in zip(
                shared, outcomes(self.predictor, folder, self.options, shared, processes), strict=True
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


def remove_stale_files(
    folder: OutputFolder,
    formats: Sequence[str],
    sources: Sequence[Source],
    pictures: Collection[str] = (),
    *,
    copies: bool,
) -> None:
    """Remove the files of the formats that an earlier call wrote for other images than `sources`, and its `pictures`.

    Files that the user has changed stay. Prints how many were removed.
    """
    kept = {*names_of_outputs(formats, sources, copies=copies)}
    if removed := remove_stale(folder, formats, kept) + sum(map(folder.remove, pictures)):
        typer.echo(
            f"{folder.path}: removed {counted(removed, 'file')} of an earlier prediction on other images", err=True
        )


def _earlier_pictures(folder: OutputFolder) -> set[str]:
    """The pictures in the predictions.json that an earlier call wrote to the folder, and that still exist."""
    path = folder.path / PREDICTIONS
    images = json.loads(path.read_bytes())["images"] if path.exists() else []
    return {entry["picture"] for entry in images if "picture" in entry and (folder.path / entry["picture"]).is_file()}


def _write_results(folder: OutputFolder, images: Sequence[dict[str, Any]], failed: Sequence[tuple[str, str]]) -> str:
    """Write predictions.json, and return its text. Earlier results stay if no image could be processed."""
    results: dict[str, Any] = {"images": images}
    if failed:
        results["failed"] = [{"file": name, "error": reason} for name, reason in failed]
    text = json.dumps(results)
    if images or not (folder.path / PREDICTIONS).exists():
        folder.write_text(PREDICTIONS, text + "\n")
    else:
        typer.echo(f"kept the earlier {folder.path / PREDICTIONS}: no image could be processed", err=True)
    folder.discard(PARTIAL)
    return text
