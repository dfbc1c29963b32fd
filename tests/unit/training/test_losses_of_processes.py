"""The mean of the losses of two processes is the loss of one with all images: each kind of head, and old systems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.config import LegacyFCISConfig, LegacyRPNConfig
from rcnn.models.overrides import override
from rcnn.runtime.processes import ALONE, Processes
from rcnn.structures import ImageBatch, Targets
from rcnn.training.distributed import synchronize_norms
from tests.narrow import present
from tests.tiny_data import TINY_KEYPOINT_MODEL, TINY_MODEL
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.process_runs import in_processes

SIZES = [(64, 96), (60, 96), (64, 80), (64, 96)]
COUNTS = [1, 0, 3, 6]  # objects, unequal in the two halves
RPN = [word for word in TINY_MODEL if word.startswith("rpn.")]


def configs() -> dict[str, DetectorConfig]:
    """Tiny detectors of one class whose losses have different divisors."""
    mask = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=1"])
    cascade = override(model_config("cascade_mask_rcnn_compact"), [*TINY_MODEL, "num_classes=1"])
    keypoint = override(model_config("keypoint_rcnn_compact"), [*TINY_KEYPOINT_MODEL, "num_classes=1"])
    per_image = replace(present(keypoint.keypoint), normalizer="batch_size")
    fcis = override(model_config("fcis_compact"), [*RPN, "num_classes=1", "backbone.widths=[16,16,16,16]"])
    head = present(fcis.fcis)
    pixels = replace(head, ohem=False, legacy=LegacyFCISConfig(mask_loss="pixels", drop="after"))
    return {
        "mask": mask,
        "sampled": replace(mask, rpn=replace(mask.rpn, legacy=LegacyRPNConfig(normalizer="sampled"))),
        "cascade": cascade,
        "keypoint": keypoint,
        "keypoint, per image": replace(keypoint, keypoint=per_image),
        "fcis": fcis,
        "fcis, per pixel": replace(fcis, fcis=pixels),
    }


def batch(config: DetectorConfig) -> tuple[ImageBatch, Targets]:
    """Four images; the objects have what the model is trained on: outlines, bitmaps, or keypoints."""
    targets, generator = random_targets(SIZES, COUNTS, 1, seed=1), torch.Generator().manual_seed(1)
    images = random_images(SIZES, seed=1)
    if config.fcis is not None:
        bitmaps = torch.rand(*targets.valid.shape, *images.pixels.shape[2:], generator=generator) < 0.6
        return images, replace(targets, polygons=None, bitmaps=bitmaps & targets.valid[..., None, None])
    if config.keypoint is None:
        return images, targets
    places = (*targets.valid.shape, len(config.keypoint.names))
    corner, far = targets.boxes.split(2, -1)
    points = corner[:, :, None] + torch.rand(*places, 2, generator=generator) * (far - corner)[:, :, None]
    seen = torch.randint(0, 3, (*places, 1), generator=generator)
    keypoints = torch.cat([points, seen], -1) * targets.valid[..., None, None]
    return images, replace(targets, keypoints=keypoints)


def losses(processes: Processes) -> dict[str, dict[str, Tensor]]:
    """The losses of each detector on this process's part of the batch, their mean over the processes."""
    found: dict[str, dict[str, Tensor]] = {}
    own = slice(processes.rank * 4 // processes.count, (processes.rank + 1) * 4 // processes.count)
    for name, config in configs().items():
        torch.manual_seed(0)
        detector = build_detector(config).train().double()
        if processes.count > 1:
            synchronize_norms(detector)
        images, targets = batch(config)
        part = ImageBatch(pixels=images.pixels[own], sizes=images.sizes[own])
        values = detector.losses(part, targets._map(lambda value: value[own]), torch.tensor([5, own.start]))
        found[name] = {key: processes.mean(value.detach()) for key, value in values.items()}
    return found


def test_the_losses_are_those_of_all_images(tmp_path: Path) -> None:
    expected = losses(ALONE)
    first, second = in_processes(2, tmp_path, losses)
    assert {"mask", "keypoint", "cascade", "fcis"} <= expected.keys()
    for name, values in expected.items():
        assert all(value > 0 for value in values.values()), (name, values)
        torch.testing.assert_close(first[name], values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(second[name], values, rtol=1e-9, atol=1e-12)
