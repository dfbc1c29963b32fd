"""Detectors with random weights, batches of noise, and the comparison of exported files with PyTorch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rcnn
from rcnn.export.compare import Difference, compare
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import override
from rcnn.runtime.exported import ExportedModel
from rcnn.structures import Detections, ImageBatch

CPU = torch.device("cpu")
SHAPES = ((1, 96, 96), (4, 160, 224), (2, 256, 128))  # images, padded height and width


def detector_of(name: str, *overrides: str) -> Detector:
    """A compact model with random weights and fewer proposals."""
    config = override(model_config(name), [*overrides, "rpn.proposals.post_nms=40"])
    detector = build_detector(config).eval()
    for parameter in detector.parameters():
        parameter.requires_grad_(False)
    return detector


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within the block, no file can have more than `size` bytes, as if the disk was full."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def batch_of(images: int, height: int, width: int) -> ImageBatch:
    """Images of noise; the second and later ones are smaller than the batch."""
    generator = torch.Generator().manual_seed(height)
    sizes = torch.tensor([[height - 9 * index, width - 4 * index] for index in range(images)])
    return ImageBatch(
        pixels=torch.randint(0, 256, (images, 3, height, width), generator=generator, dtype=torch.uint8),
        sizes=sizes,
        scales=torch.full((images,), 0.5),
        originals=sizes * 2,
    )


def require_equal(detector: Detector, model: ExportedModel, *shapes: tuple[int, int, int], capacity: int) -> int:
    """The issue's tolerances: boxes and keypoints 0.01 px, scores 1e-4, masks 1e-3; each image has `capacity` rows.

    Returns the number of detections that matched.
    """
    prepared, matched = prepare_for_inference(detector), 0
    for shape in shapes:
        images = batch_of(*shape)
        expected, found = prepared.predict(images), model.predict(images)
        assert bool((found.valid.sum(1) == capacity).all()), shape
        difference = compare(expected, found)
        require_small(difference, shape)
        matched += difference.matched
    return matched


def require_equal_on_small_images(detector: Detector, model: ExportedModel) -> None:
    """`require_equal` for images of which one side, or both, is a single cell of the coarsest maps."""
    prepared = prepare_for_inference(detector)
    for height, width in ((20, 30), (40, 64), (64, 64), (33, 200)):
        padded = batch_of(1, -(-height // 32) * 32, -(-width // 32) * 32)
        images = replace(padded, sizes=torch.tensor([[height, width]]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of an image that is padded
            found = model.predict(images)
        difference = compare(prepared.predict(images), found)
        assert difference.matched > 0, (height, width)
        require_small(difference, (height, width))


def require_small(difference: Difference, shape: tuple[int, ...]) -> None:
    """The issue's tolerances, see `require_equal`; `shape` is that of the images."""
    assert difference.unmatched == 0, (shape, difference)
    for name, most in (("boxes", 0.01), ("scores", 1e-4), ("masks", 1e-3), ("keypoints", 0.01)):
        value: float | None = getattr(difference, name)
        assert value is None or value < most, (shape, difference)


def found_without_pixels(
    detector: Detector, model: ExportedModel, shape: tuple[int, int, int]
) -> tuple[Detections, Detections]:
    """What PyTorch and the exported model detect in images without a valid pixel."""
    images = batch_of(*shape)
    images = replace(images, sizes=torch.zeros_like(images.sizes))
    return prepare_for_inference(detector).predict(images), model.predict(images)


def annotate(data: Path, predictor: rcnn.Predictor) -> None:
    """Replace the objects of split val by some of the detections, so that AP of random weights is not 0."""
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"] = []
    for image in content["images"]:
        found = predictor.predict(data / "val" / image["file_name"])[1:8:2]
        for entry in found.to_coco(image["id"], [category["id"] for category in content["categories"]]):
            more = {"id": len(content["annotations"]) + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
            content["annotations"].append(entry | more)
    file.write_text(json.dumps(content))
