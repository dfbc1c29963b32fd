"""One image file followed to its detections: decode, resize, pad, detect, back to the pixels of the file.

    predictor = Predictor.from_checkpoint("runs/balloons")
    [found] = predictor.predict(["photo.jpg"])
    found.boxes, found.scores, found.labels, found.rles()

Letters: N detections of one image, m the side of a mask in its box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from rcnn.data.images import read_image
from rcnn.data.loading import Padding, pad_images
from rcnn.data.transforms import canvas_place, on_canvas, resize_factor, resize_shortest, resized_size
from rcnn.drawing.pictures import PERSON_SKELETON
from rcnn.models import Detector
from rcnn.models.config import COCO_KEYPOINTS, DetectorConfig, InputConfig
from rcnn.models.inference import prepare_for_inference
from rcnn.ops.boxes import move_ends
from rcnn.ops.coco_backend import encode_region
from rcnn.ops.masks import Region
from rcnn.ops.pasting import Paste, paste_as
from rcnn.structures import Detections
from rcnn.weights.checkpoint import load_detector

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """What was found in one image, best first, in pixels of the original image."""

    height: int
    width: int
    boxes: np.ndarray  # (N, 4) float32 xyxy, within the image
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) int64 in [0, K)
    masks: np.ndarray | None = None  # (N, m, m) float32 probabilities, in the frame of their boxes
    keypoints: np.ndarray | None = None  # (N, J, 3) float32: x, y, score
    paste: Paste = "accurate"  # how masks come into the image
    last_pixel_inside: bool = False  # and whether that goes by boxes that end on their last pixel, not after it
    mask_threshold: float = 0.5  # where FCIS sets them; the other ways have thresholds of their own

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> ImageDetections:
        """Those scored `score` or higher."""
        keep = self.scores >= score
        chosen = {name: getattr(self, name) for name in ("boxes", "scores", "labels", "masks", "keypoints")}
        return replace(self, **{name: None if value is None else value[keep] for name, value in chosen.items()})

    def rles(self) -> list[dict[str, Any]] | None:
        """Each mask at image size as COCO run lengths {"size": [H, W], "counts": str}; None without masks."""
        regions = self.regions()
        return None if regions is None else [encode_region(*region, (self.height, self.width)) for region in regions]

    def regions(self) -> Iterator[Region] | None:
        """Each mask as the part of the image that it touches; None without masks."""
        if self.masks is None:
            return None
        masks, boxes = torch.from_numpy(self.masks), torch.from_numpy(self.boxes)
        if self.last_pixel_inside:
            boxes = move_ends(boxes, -1.0)
        return paste_as(self.paste, masks, boxes, (self.height, self.width), self.mask_threshold)

    def to_json(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The `detections` of one image in predictions.json; `names` are the K classes."""
        rles = self.rles()
        found = []
        for i, (label, score) in enumerate(zip(self.labels.tolist(), self.scores.tolist(), strict=True)):
            one: dict[str, Any] = {"label": label, "name": names[label], "score": score, "box": self.boxes[i].tolist()}
            if rles is not None:
                one["mask"] = rles[i]
            if self.keypoints is not None:
                one["keypoints"] = self.keypoints[i].tolist()
            found.append(one)
        return found


class Predictor:
    """A detector with all it takes to read a file: its config, class names, device, precision and padding."""

    def __init__(
        self,
        detector: Detector,
        *,
        classes: Sequence[str],
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        padding: Padding = "exact",
    ) -> None:
        """`detector` is copied. `auto`: the GPU if there is one; bfloat16 where the hardware multiplies it."""
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.detector = prepare_for_inference(detector, self.precision).to(self.device)
        self.config, self.classes, self.padding = detector.config, tuple(classes), padding

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Which keypoints are joined by a line in pictures: as the data set had it; else, for COCO's 17, as COCO."""
        keypoint = self.config.keypoint
        if keypoint is None or keypoint.skeleton or keypoint.names != COCO_KEYPOINTS:
            return () if keypoint is None else keypoint.skeleton
        return PERSON_SKELETON

    @classmethod
    def from_checkpoint(cls, path: str | Path, **settings: Any) -> Self:
        """The predictor of a checkpoint or run folder; `settings` as of the constructor."""
        detector, checkpoint = load_detector(path)
        return cls(detector, classes=checkpoint.classes, **settings)

    def predict(self, sources: Sequence[str | Path | bytes | Tensor]) -> list[ImageDetections]:
        """The detections in each of a batch of images: files, encoded bytes, or uint8 RGB tensors (3, H, W)."""
        prepared = [self.prepare(source) for source in sources]
        return self.detect([image for image, _ in prepared], [size for _, size in prepared])

    def prepare(self, source: str | Path | bytes | Tensor) -> tuple[Tensor, tuple[int, int]]:
        """An image (3, h, w) resized as the checkpoint wants it, and its own (height, width). Threads may call it."""
        image = source if isinstance(source, Tensor) else read_image(source)
        settings = self.config.input
        resized = resize_shortest(image, settings.min_size, settings.max_size, settings.resize, settings.size_rounding)
        if settings.canvas:
            resized = on_canvas(resized, settings.canvas)
        return resized, (image.shape[1], image.shape[2])

    def detect(self, images: Sequence[Tensor], originals: Sequence[tuple[int, int]]) -> list[ImageDetections]:
        """The detections in prepared `images`, each in pixels of its `originals` size."""
        scales = []  # by the number that takes boxes back to the file, so that both ways agree
        for image, original in zip(images, originals, strict=True):
            x, y = rescale(self.config.input, (image.shape[1], image.shape[2]), original)
            scales.append(1 / math.sqrt(x * y))
        batch = pad_images(images, self.config.input.divisor, self.padding, originals, scales).to(self.device)
        with torch.inference_mode():
            detections = self.detector.predict(batch).to("cpu")
        sizes = batch.sizes.tolist()
        return [
            to_original(detections, i, (size[0], size[1]), originals[i], self.config) for i, size in enumerate(sizes)
        ]


def to_original(
    detections: Detections, index: int, size: tuple[int, int], original: tuple[int, int], config: DetectorConfig
) -> ImageDetections:
    """Image `index` of a batch, from network input of (height, width) `size` to the `original` image.

    Boxes are multiplied as `rescale` says, then cut to the image, and those left without area are dropped (Detectron2's
    detector_postprocess).
    """
    height, width = original
    scale = np.array(rescale(config.input, size, original) * 2, dtype=np.float32)
    limit = np.array([width, height] * 2, dtype=np.float32)
    boxes = detections.boxes[index].float().numpy()
    if config.input.canvas:  # boxes end on their last pixel there, and are whole numbers
        top, left = canvas_place(_resized(config.input, original), config.input.canvas)
        boxes = np.round((boxes - np.array([left, top] * 2, np.float32)) * scale + np.array([0, 0, 1, 1], np.float32))
    else:
        boxes = boxes * scale
    boxes = np.clip(boxes, 0, limit)
    keep = detections.valid[index].numpy() & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks, points = detections.masks, None
    if detections.keypoints is not None:
        points = detections.keypoints[index].float().numpy()[keep]
        points[..., :2] *= scale[:2]
    return ImageDetections(
        height=height,
        width=width,
        boxes=boxes[keep],
        scores=detections.scores[index].float().numpy()[keep],
        labels=detections.labels[index].numpy()[keep],
        masks=None if masks is None else masks[index].float().numpy()[keep],
        keypoints=points,
        paste=paste_of(config),
        last_pixel_inside=config.legacy.boxes != "half_open"
        and paste_of(config) in ("padded", "squeezed", "stretched"),
        mask_threshold=0.5 if config.fcis is None else config.fcis.mask_threshold,
    )


def paste_of(config: DetectorConfig) -> Paste:
    """How the masks of a detector of `config` come into the image."""
    if config.fcis is not None:
        return "fitted" if config.fcis.legacy.mask_inclusive else "fitted_above"
    return "accurate" if config.mask is None else config.mask.paste


def rescale(settings: InputConfig, size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float]:
    """What x and y of the network input, (height, width) `size`, are multiplied by to be those of the `original`.

    Each axis has a factor of its own, as rounding to whole pixels made it; but older systems take one for both.
    """
    if settings.canvas:  # from the first pixel's centre to the last's
        (height, width), (whole_height, whole_width) = _resized(settings, original), original
        return (whole_width - 1) / max(1, width - 1), (whole_height - 1) / max(1, height - 1)
    y, x = original[0] / size[0], original[1] / size[1]
    match settings.rescale:
        case "width":
            return x, x
        case "height":
            return y, y
        case "geometric":
            return math.sqrt(x * y), math.sqrt(x * y)
        case "factor":
            factor = resize_factor(original, settings.min_size, settings.max_size, settings.size_rounding)
            return 1 / factor, 1 / factor
    return x, y


def _resized(settings: InputConfig, original: tuple[int, int]) -> tuple[int, int]:
    return resized_size(original, settings.min_size, settings.max_size, settings.resize, settings.size_rounding)


def choose_device(device: str | torch.device) -> torch.device:
    """`auto` is the GPU if there is one; a ValueError names a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that torch knows: want auto, cpu, cuda or cuda:1") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} was asked for, but torch sees no GPU here; `rcnn doctor` says more")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device} was asked for, and torch sees {torch.cuda.device_count()} GPUs, from cuda:0 on"
        )
    return chosen


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 where the hardware multiplies it, which makes up for the digits that it loses."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
