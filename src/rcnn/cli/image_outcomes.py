"""One image of `rcnn predict`: read, detected in, drawn, and made ready to be written in each format."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.background import in_background
from rcnn.cli.formats import WITH_IMAGES, files_of_image
from rcnn.cli.scores import Filter
from rcnn.cli.sources import Source
from rcnn.data.read_ahead import ReadAhead, read_ahead

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import Tensor

    from rcnn.data.given_boxes import BoxFile
    from rcnn.predictor import Predictor
    from rcnn.preprocess import Frame
    from rcnn.region_features import RegionFeatures
    from rcnn.results import ImageDetections
    from rcnn.runtime.processes import Processes

READ_AHEAD = 2  # images decoded before they are needed
DRAWN_BESIDE = 1  # images that are drawn while the model works on the next one
QUALITY = 92  # of the JPEG pictures
MAX_SIDE = 65_500  # limit of JPEG, pixels
INPUT_ERRORS = (ValueError, OSError, ImportError)  # of an image; others are faults of rcnn, or of the user's modules


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
    debug: bool = False  # an error that is not one of the input stops the command, with its traceback


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
    read = read_ahead(own, partial(in_background, partial(read_source, predictor, options)), READ_AHEAD)
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


def read_source(predictor: Predictor, options: ImageOptions, source: Source) -> ReadImage:
    """The image of `source`, decoded and prepared for the network. Raises ImageError or OSError, naming the source."""
    from rcnn.data.images import ImageError, read_image, shown_name

    content = source.read()
    try:
        pixels = read_image(content, max_pixels=options.max_pixels)
    except ImageError as error:  # of a download: name the URL, not the bytes
        raise ImageError(str(error).replace(shown_name(content), source.name, 1)) from error
    return ReadImage(
        pixels=pixels,
        prepared=predictor.prepare(pixels) if options.given is None and not options.tile else None,
        content=content if isinstance(content, bytes) else None,
    )


def _detect(predictor: Predictor, options: ImageOptions, source: Source, read: Future[ReadImage]) -> DetectedImage:
    """The detections of the model in an image, or the scores of its given boxes."""
    from rcnn.prediction_arguments import lowest_score
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
            lowest = lowest_score(options.keep.score, predictor.classes)
            found = replace(predictor.detect([resized], [frame], lowest)[0], source=ImageSource(image=image.pixels))
        else:
            found = predictor.predict(image.pixels, boxes=boxes)
    except Exception as error:  # one bad input must not stop the others
        _require_input_error(error, options)
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
        if options.pictures:
            entry["picture"] = source.picture
        copied = options.copies and any(name in WITH_IMAGES for name in options.formats)
        return Outcome(
            entry=entry | {"detections": result.to_json()},
            picture=_picture(result, options) if options.pictures else b"",
            files=files_of_image(result, source, options.formats, output, copies=options.copies),
            features=image.features,
            content=image.content if copied else None,
        )
    except Exception as error:
        _require_input_error(error, options)
        return Outcome(error=_reason(error, source))


def _require_input_error(error: Exception, options: ImageOptions) -> None:
    """With --debug: raise `error` unless it is one of the input, because its traceback is needed."""
    if options.debug and not isinstance(error, INPUT_ERRORS):
        raise error


def _reason(error: Exception, source: Source) -> str:
    """The message of an error in one line, without the name of the image, which is printed before it."""
    from rcnn.runtime.memory import is_out_of_memory

    if is_out_of_memory(error):
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"not enough memory ({first}): predict on tiles (--tile), or use a smaller input.max_size or model"
    if not isinstance(error, INPUT_ERRORS):
        return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"
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
