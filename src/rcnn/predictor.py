"""From an image to its detections: decode, resize, pad, detect, convert to pixels of the original image.

    predictor = Predictor("runs/balloons")
    result = predictor.predict("photo.jpg")
    result.boxes, result.scores, result.names, result.masks

Letters: N detections of one image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, Self, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rcnn.arguments import as_texts, require_switches
from rcnn.data.given_boxes import Boxes, GivenBoxes, Labels, PredictionInput, check_given, one_per_image, pad_given
from rcnn.data.image_inputs import (
    Channels,
    ImageInput,
    as_image,
    image_of_list,
    is_one_image,
)
from rcnn.data.images import MAX_PIXELS
from rcnn.data.loading import Padding, alike, pad_images, require_padding
from rcnn.data.messages import counted
from rcnn.drawing.pictures import PERSON_SKELETON
from rcnn.models import Detector
from rcnn.models.config import COCO_KEYPOINTS, DetectorConfig
from rcnn.models.overrides import Overrides
from rcnn.models.pasting import pasting_of
from rcnn.prediction_arguments import Score, check_arguments, lowest_score
from rcnn.preprocess import Frame
from rcnn.region_features import RegionFeatures
from rcnn.results import ImageDetections
from rcnn.runtime.compiled import CompiledDetector
from rcnn.runtime.devices import Device, Precision, choose_device
from rcnn.runtime.open_model import open_model
from rcnn.structures import Detections, ImageBatch


class Predictor:
    """A detector and everything needed to run it on images: config, class names, device, precision, padding."""

    def __init__(
        self,
        detector: Detector | str | Path,
        *,
        classes: str | Sequence[str] | None = None,
        device: Device = "auto",
        precision: Precision = "float32",
        padding: Padding = "exact",
        overrides: Overrides = (),
        allow: str | Sequence[str] = (),
        compile: bool = False,
    ) -> None:
        """`detector` is a checkpoint, run folder, name of published weights, exported file (.onnx, .pt2, .xml), or a
        detector, which is copied.

        Names (`rcnn.list_weights`, "hf:owner/name") are downloaded and converted on first use, see docs/weights.md.

        `classes` default to those of the checkpoint; a detector alone has "0", "1", ... `device` "auto" is the GPU if
        there is one. `precision` "auto" is bfloat16 where the hardware has instructions for it. `padding`: "exact"
        pads to the multiple that the model needs, "bucket" to one of a few sizes. `overrides` are changes to a
        checkpoint's config, e.g. ["box.score_threshold=0.01"] or {"box.score_threshold": 0.01}. `allow`: the user's
        code that a checkpoint may run, see `rcnn.load`. `compile`: detect through `torch.compile`, see docs/predict.md;
        not for exported files.

        Raises FileNotFoundError or ValueError for a checkpoint that cannot be used, ValueError if the number of
        `classes` is not that of the detector, ImportError if `compile` lacks a compiler.
        """
        require_switches(compile=compile)
        self.device, self.padding = choose_device(device), require_padding(padding)
        model = open_model(
            detector, device=self.device, precision=precision, overrides=overrides, allow=allow, compile=compile
        )  # fmt: skip
        self.config, self.precision, self.runner = model.config, model.precision, model.runner
        self.preprocessor, self._detector = model.preprocessor, model.detector
        names = model.classes if classes is None else as_texts(classes, "classes")
        self.classes = tuple(map(str, range(self.config.num_classes))) if names is None else names
        if len(self.classes) != self.config.num_classes:
            raise ValueError(f"got {counted(len(self.classes), 'class')}; the detector has {self.config.num_classes}")

    @property
    def detector(self) -> Detector:
        """The detector. Raises ValueError for an exported file, which can only detect."""
        if self._detector is None:
            raise ValueError(
                "an exported file only detects: it cannot score given boxes, return features, or use test-time "
                "augmentation; use its checkpoint"
            )
        return self._detector

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: Device = "auto",
        precision: Precision = "float32",
        padding: Padding = "exact",
        overrides: Overrides = (),
        allow: str | Sequence[str] = (),
    ) -> Self:
        """The predictor of a checkpoint, or of the best checkpoint of a run folder; arguments as in the constructor."""
        return cls(path, device=device, precision=precision, padding=padding, overrides=overrides, allow=allow)

    @overload
    def predict(
        self,
        images: ImageInput,
        *,
        score: Score = 0.0,
        boxes: Boxes | None = None,
        labels: Labels | None = None,
        channels: Channels = "rgb",
        max_pixels: int = MAX_PIXELS,
        errors: Literal["raise"] = "raise",
    ) -> ImageDetections: ...

    @overload
    def predict(
        self,
        images: ImageInput,
        *,
        score: Score = 0.0,
        boxes: Boxes | None = None,
        labels: Labels | None = None,
        channels: Channels = "rgb",
        max_pixels: int = MAX_PIXELS,
        errors: Literal["return"],
    ) -> ImageDetections | Exception: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageInput],
        *,
        score: Score = 0.0,
        boxes: Sequence[Boxes] | None = None,
        labels: Sequence[Labels] | None = None,
        channels: Channels = "rgb",
        batch_size: int = 4,
        max_pixels: int = MAX_PIXELS,
        errors: Literal["raise"] = "raise",
    ) -> list[ImageDetections]: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageInput],
        *,
        score: Score = 0.0,
        boxes: Sequence[Boxes] | None = None,
        labels: Sequence[Labels] | None = None,
        channels: Channels = "rgb",
        batch_size: int = 4,
        max_pixels: int = MAX_PIXELS,
        errors: Literal["return"],
    ) -> list[ImageDetections | Exception]: ...

    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        score: Score = 0.0,
        boxes: Boxes | Sequence[Boxes] | None = None,
        labels: Labels | Sequence[Labels] | None = None,
        channels: Channels = "rgb",
        batch_size: int = 4,
        max_pixels: int = MAX_PIXELS,
        errors: Literal["raise", "return"] = "raise",
    ) -> ImageDetections | Exception | list[ImageDetections] | list[ImageDetections | Exception]:
        """The detections of one image, or a list of those of several.

        An image is a path, encoded bytes, a file that is open in binary mode, a numpy array uint8 (H, W), (H, W, 1),
        (H, W, 3) or (H, W, 4), a Pillow image, a tensor uint8 (3, H, W), or an image of a data set, `dataset[0]`.
        Arrays and tensors are RGB, or BGR with `channels="bgr"` (OpenCV).

        `score`: skip detections with a lower score: one number, or one per class name. The default, 0, keeps all
        detections of the model: those above its `box.score_threshold`, 0.05 in most models (the default of the command
        `rcnn predict` is 0.5). `batch_size`: number of images per forward pass, if they are padded to the same shape.
        `max_pixels`: refuse larger images; 0: no limit. `errors`: "raise" raises the exception of the first image that
        cannot be read; "return" returns exceptions in place of results.

        `boxes` (N, 4), xyxy pixels of the image, are scored in place of detecting: the result has one row per box, in
        their order, with the box as given (not refined; clipped to the image), the most probable class, its
        probability, mask and keypoints. `labels` (N,), numbers or names, choose the classes instead. For several
        images, give a list of boxes (and of labels), one entry per image.

        Raises ValueError or OSError (FileNotFoundError, ...) for what cannot be read as an image, ValueError for boxes
        that are empty or outside the image.
        """
        check_arguments(score, boxes, labels, channels, batch_size, max_pixels, errors)
        single = is_one_image(images)
        inputs: Iterator[tuple[object, object, object]] = iter([(images, boxes, labels)])
        if not single:
            several = cast("Iterable[ImageInput]", images)
            inputs = zip(several, one_per_image(boxes, "boxes"), one_per_image(labels, "labels"), strict=False)
        results: list[ImageDetections | Exception] = []
        while chunk := list(islice(inputs, batch_size)):
            decoded: list[PredictionInput | Exception] = []
            for index, (image, rows, classes) in enumerate(chunk, start=len(results)):
                try:
                    number = None if single else index
                    decoded.append(self._decode(image, rows, classes, number, channels, max_pixels))
                except (ValueError, OSError) as error:
                    if errors == "raise":
                        raise
                    decoded.append(error)
            batch = [one for one in decoded if not isinstance(one, Exception)]
            found = iter(self._predict(batch, score, max_pixels))
            results += [one if isinstance(one, Exception) else next(found) for one in decoded]
        if single:
            return results[0]
        for name, values in (("boxes", boxes), ("labels", labels)):
            if values is not None and len(values) != len(results):
                raise ValueError(
                    f"{name} has {len(values)} entries for {counted(len(results), 'image')}; expected one for each"
                )
        return results

    def features(
        self, image: ImageInput, boxes: Boxes, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS
    ) -> RegionFeatures:
        """The box head's features of `boxes` (N, 4), xyxy pixels of the image, e.g. as input of MAttNet.

        `image` and the errors as in `predict`. With Cascade R-CNN, they are the features of the last stage. Raises
        ValueError for a model without rcnn's box head: FCIS, proposals only, or your own box head.
        """
        pixels = as_image(image, channels=channels, max_pixels=max_pixels)
        given = check_given(boxes, None, pixels, self.classes)
        resized, frame = self.prepare(pixels)
        images, rows, valid, _ = self._batch_of_given([resized], [frame], [given])
        with torch.inference_mode():
            regions = self.detector.pool_boxes(self.detector.features(images), images, rows, valid)
        return RegionFeatures.of(regions, given.boxes)

    def predict_with_features(
        self, image: ImageInput, boxes: Boxes, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS
    ) -> tuple[ImageDetections, RegionFeatures]:
        """What `predict` and `features` return for `boxes`, with one pass through the backbone."""
        pixels = as_image(image, channels=channels, max_pixels=max_pixels)
        given = check_given(boxes, None, pixels, self.classes)
        resized, frame = self.prepare(pixels)
        images, rows, valid, _ = self._batch_of_given([resized], [frame], [given])
        with torch.inference_mode():
            features = self.detector.features(images)
            regions = self.detector.pool_boxes(features, images, rows, valid)
            detections = self.detector.predict_boxes(features, images, rows, valid, None).to("cpu")
        result = self.results(detections, 0, frame, given.boxes)
        source = PredictionInput(image, pixels).source(max_pixels)
        return replace(result, source=source), RegionFeatures.of(regions, given.boxes)

    def _decode(
        self,
        image: object,
        boxes: object | None,
        labels: object | None,
        index: int | None,
        channels: Channels,
        max_pixels: int,
    ) -> PredictionInput:
        """A decoded image with its boxes, checked. `index` names it in errors if it is one of several images."""
        if index is None:
            pixels = as_image(image, channels=channels, max_pixels=max_pixels)
        else:
            pixels = image_of_list(image, index, channels=channels, max_pixels=max_pixels)
        where = "" if index is None else f"image {index}: "
        given = None if boxes is None else check_given(boxes, labels, pixels, self.classes, where)
        return PredictionInput(image, pixels, given)

    def _predict(self, batch: Sequence[PredictionInput], score: Score, max_pixels: int) -> list[ImageDetections]:
        """The detections in a batch of images; if boxes are given, the results of scoring them."""
        if not batch:
            return []
        prepared = [self.prepare(one.pixels) for one in batch]
        images, frames = [image for image, _ in prepared], [frame for _, frame in prepared]
        given = [one.given for one in batch if one.given is not None]
        lowest = lowest_score(score, self.classes)
        results = self.score_boxes(images, frames, given) if given else self.detect(images, frames, lowest)
        return [
            replace(result.above(score) if score else result, source=one.source(max_pixels))
            for result, one in zip(results, batch, strict=True)
        ]

    def prepare(self, source: ImageInput) -> tuple[Tensor, Frame]:
        """An image resized for the network, (3, h, w), and its frame. It can be called in threads."""
        return self.preprocessor(as_image(source))

    def detect(self, images: Sequence[Tensor], frames: Sequence[Frame], score: float = 0.0) -> list[ImageDetections]:
        """The detections in `images` from `prepare`, in pixels of the original images.

        Those with a score below `score` may be left out, which saves their masks and keypoints.

        Only images that are padded to the same shape run together, so that the others do not change the detections in
        an image; with the padding "bucket", all do.
        """
        found: dict[int, ImageDetections] = {}
        for places in alike(frames, self.config.input.divisor, self.padding):
            chosen = [frames[place] for place in places]
            padded = pad_images([images[place] for place in places], self.config.input.divisor, self.padding, chosen)
            with torch.inference_mode():
                detections = self._run(padded.to(self.device), score).to("cpu")
            found |= {place: self.results(detections, index, frames[place]) for index, place in enumerate(places)}
        return [found[place] for place in range(len(frames))]

    def _run(self, images: ImageBatch, score: float) -> Detections:
        """The detections of the model; exported files and compiled models return those below `score`, too."""
        runner = self.runner
        is_exported = not isinstance(runner, (Detector, CompiledDetector))
        return runner.predict(images) if is_exported else runner.predict(images, score)

    def score_boxes(
        self, images: Sequence[Tensor], frames: Sequence[Frame], given: Sequence[GivenBoxes]
    ) -> list[ImageDetections]:
        """Class, score, mask and keypoints of the `given` boxes of each of the prepared `images`; row i is box i.

        Images run together as in `detect`.
        """
        found: dict[int, ImageDetections] = {}
        for places in alike(frames, self.config.input.divisor, self.padding):
            batch, boxes, valid, labels = self._batch_of_given(
                [images[place] for place in places],
                [frames[place] for place in places],
                [given[place] for place in places],
            )
            with torch.inference_mode():
                features = self.detector.features(batch)
                detections = self.detector.predict_boxes(features, batch, boxes, valid, labels).to("cpu")
            for index, place in enumerate(places):
                found[place] = self.results(detections, index, frames[place], given[place].boxes)
        return [found[place] for place in range(len(frames))]

    def _batch_of_given(
        self, images: Sequence[Tensor], frames: Sequence[Frame], given: Sequence[GivenBoxes]
    ) -> tuple[ImageBatch, Tensor, Tensor, Tensor | None]:
        """Prepared `images` as a batch on the device, with the boxes, `valid` and labels of `pad_given`."""
        batch = pad_images(images, self.config.input.divisor, self.padding, frames).to(self.device)
        boxes, valid, labels = pad_given(given, frames)
        labels = None if labels is None else labels.to(self.device)
        return batch, boxes.to(self.device), valid.to(self.device), labels

    def results(
        self, detections: Detections, index: int, frame: Frame, given: npt.NDArray[np.float32] | None = None
    ) -> ImageDetections:
        """Image `index` of a batch of detections, in pixels of its original image, with class names.

        `given` (N, 4) are the boxes of the image that were scored, if any.
        """
        found = to_original(detections, index, frame, self.config, given)
        return replace(found, classes=self.classes, skeleton=self.skeleton)

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints joined by a line in pictures: those of the data set, or COCO's for its 17 keypoints."""
        keypoint = self.config.keypoint
        if keypoint is None or keypoint.skeleton or keypoint.names != COCO_KEYPOINTS:
            return () if keypoint is None else keypoint.skeleton
        return PERSON_SKELETON


def to_original(
    detections: Detections,
    index: int,
    frame: Frame,
    config: DetectorConfig,
    given: npt.NDArray[np.float32] | None = None,
) -> ImageDetections:
    """Image `index` of a batch of detections, on the CPU, in pixels of its original image.

    Boxes are clipped to the image; those that become empty are dropped (Detectron2's detector_postprocess). With
    `given` (N, 4), the first N rows are these boxes.
    """
    boxes, valid = frame.to_original(detections.boxes[index].float().numpy()), detections.valid[index].numpy()
    keep = valid & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if given is not None:
        keep = valid
        boxes[: len(given)] = given
    masks, points = detections.masks, detections.keypoints
    return ImageDetections(
        height=frame.original[0],
        width=frame.original[1],
        boxes=boxes[keep],
        scores=detections.scores[index].float().numpy()[keep],
        labels=detections.labels[index].numpy()[keep],
        box_masks=None if masks is None else masks[index].float().numpy()[keep],
        keypoints=None if points is None else frame.points_to_original(points[index].float().numpy()[keep]),
        pasting=pasting_of(config),
    )
