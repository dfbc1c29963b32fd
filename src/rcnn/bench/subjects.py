"""The subjects of a benchmark: our predictor and torchvision's detector, from encoded images to masks, by stage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcnn.bench.clock import Clock
from rcnn.data.images import read_image
from rcnn.data.loading import pad_images
from rcnn.models import MODELS, DetectorConfig, build_detector, model_config
from rcnn.models.overrides import Overrides, override
from rcnn.models.unused_settings import require_used
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.runtime.devices import Precision
from rcnn.weights.checkpoint import detector_record, load_detector

TORCHVISION = {  # name of our model -> function of torchvision
    "faster_rcnn_r50_fpn": "fasterrcnn_resnet50_fpn",
    "mask_rcnn_r50_fpn": "maskrcnn_resnet50_fpn",
    "keypoint_rcnn_r50_fpn": "keypointrcnn_resnet50_fpn",
    "faster_rcnn_r50_fpn_v2": "fasterrcnn_resnet50_fpn_v2",
    "mask_rcnn_r50_fpn_v2": "maskrcnn_resnet50_fpn_v2",
    "faster_rcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn",
    "faster_rcnn_mobilenet_v3_large_320_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
PEER = "torchvision float32"
PHOTO = (480, 640)  # (height, width) of the generated photo: COCO's usual size


class Subject(Protocol):
    """A model that is measured."""

    def __call__(self, files: list[bytes], clock: Clock) -> object:
        """Detect objects in encoded images, as one batch; `clock` measures the stages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """A model, and the settings with which it is measured."""

    model: str  # name of a model (random weights), or path of a checkpoint
    overrides: tuple[str, ...] = ()
    device: str = "cpu"
    allow: tuple[str, ...] = ()

    @property
    def is_name(self) -> bool:
        """Whether the model is given by its name, not as a checkpoint."""
        return self.model in MODELS and not Path(self.model).exists()

    def config(self) -> DetectorConfig:
        """The config of the model. ValueError for an unknown name or setting, or a damaged checkpoint."""
        if self.is_name:
            config = override(model_config(self.model), self._overrides())
            require_used(config, self.overrides)
            return config
        return detector_record(self.model, self._overrides()).config

    def subject(self, name: str) -> Subject:
        """The subject called `name`: PEER, or "rcnn " and a precision. Loads the model."""
        if name == PEER:
            return TorchvisionSubject(self.config(), torch.device(self.device))
        if self.is_name:
            torch.manual_seed(0)
            detector = build_detector(self.config())
        else:
            detector = load_detector(self.model, self._overrides(), allow=self.allow)[0]
        precision: Any = name.removeprefix("rcnn ")
        return OurSubject(Predictor(detector, device=self.device, precision=precision))

    def _overrides(self) -> Overrides:
        """The user's settings, after a score threshold of 0 if the model has a threshold with these settings."""
        if self.is_name:
            config = override(model_config(self.model), self.overrides)
        else:
            config = detector_record(self.model, self.overrides).config
        if config.proposals_only:
            return list(self.overrides)
        return [f"{'box' if config.fcis is None else 'fcis'}.score_threshold=0", *self.overrides]


class OurSubject:
    """`Predictor.predict` and `ImageDetections.rles`, in stages."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @torch.inference_mode()
    def __call__(self, files: list[bytes], clock: Clock) -> list[ImageDetections]:
        predictor, detector = self.predictor, self.predictor.detector
        with clock("decode"):
            pixels = [read_image(file) for file in files]
        with clock("transform"):
            images, frames = zip(*map(predictor.prepare, pixels), strict=True)
            batch = pad_images(images, predictor.config.input.divisor, predictor.padding, frames).to(predictor.device)
        with clock("backbone"):
            features = detector.features(batch)
        with clock("rpn"):
            proposals = detector.rpn.predict(features, batch)
        with clock("heads"):
            if detector.box_head is None:
                detections = detector.proposals_as_detections(proposals, batch)
            else:
                detections = detector.box_head.predict(features, proposals, batch)
            for head in detector.region_heads():
                detections = head.predict(features, detections, batch)
        with clock("post-process"):
            detections = detections.to("cpu")
            found = [predictor.results(detections, index, frame) for index, frame in enumerate(frames)]
        with clock("paste"):
            for image in found:
                image.rles()
        return found


class TorchvisionSubject:
    """torchvision's detector of the same architecture and image size, with random weights, in the same stages.

    Its masks are probabilities at image size; ours are RLEs.
    """

    def __init__(self, config: DetectorConfig, device: torch.device) -> None:
        from torchvision.models import detection

        torch.manual_seed(0)
        self.model: Any = getattr(detection, TORCHVISION[config.name])(
            weights=None, weights_backbone=None, num_classes=config.num_classes + 1,
            min_size=config.input.min_size, max_size=config.input.max_size, box_score_thresh=0.0,
        )  # fmt: skip
        self.model.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, files: list[bytes], clock: Clock) -> list[dict[str, Tensor]]:
        from torchvision.models.detection.roi_heads import paste_masks_in_image
        from torchvision.models.detection.transform import resize_boxes, resize_keypoints

        model = self.model
        with clock("decode"):
            images = [_decode_as_torchvision(file) for file in files]
        with clock("transform"):
            batch, _ = model.transform([image.to(self.device).float() / 255 for image in images])
        with clock("backbone"):
            features = model.backbone(batch.tensors)
        with clock("rpn"):
            proposals, _ = model.rpn(batch, features)
        with clock("heads"):
            found, _ = model.roi_heads(features, proposals, batch.image_sizes)
        with clock("post-process"):
            for image, size, one in zip(images, batch.image_sizes, found, strict=True):
                one["boxes"] = resize_boxes(one["boxes"], size, list(image.shape[1:]))
                if "keypoints" in one:
                    one["keypoints"] = resize_keypoints(one["keypoints"], size, list(image.shape[1:]))
        with clock("paste"):
            for image, one in zip(images, found, strict=True):
                if "masks" in one:
                    one["masks"] = paste_masks_in_image(one["masks"], one["boxes"], image.shape[1:])
        return found


def _decode_as_torchvision(file: bytes) -> Tensor:
    """The image (3, H, W) uint8, decoded as users of torchvision do it, with Pillow and `pil_to_tensor`."""
    from torchvision.transforms.functional import pil_to_tensor

    with Image.open(io.BytesIO(file)) as image:
        return pil_to_tensor(image.convert("RGB"))


def photo(path: str | Path | None) -> bytes:
    """The bytes of an image file, or of a generated JPEG of PHOTO's size with smooth areas and edges."""
    if path is not None:
        read_image(path)  # ValueError for a file that is not an image
        return Path(path).read_bytes()
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (PHOTO[0] // 32, PHOTO[1] // 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((PHOTO[1], PHOTO[0]), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def subject_names(config: DetectorConfig, precisions: Sequence[Precision], *, peer: bool) -> list[str]:
    """The names of the subjects: our model in each precision, and torchvision's if it has the architecture."""
    ours = [f"rcnn {precision}" for precision in precisions]
    return [*ours, PEER] if peer and config.name in TORCHVISION and _has_its_layers(config) else ours


def _has_its_layers(config: DetectorConfig) -> bool:
    """Whether `config` has the layers of the model of its name; settings may have changed them."""
    named = replace(model_config(config.name), num_classes=config.num_classes)
    if config.backbone.kind != named.backbone.kind:
        return False
    with torch.device("meta"):
        own, expected = (
            {name: weight.shape for name, weight in build_detector(one).state_dict().items()} for one in (config, named)
        )
    return own == expected
