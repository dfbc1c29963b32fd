"""Detectron2's stored stages, losses and gradients compared with ours, for every family that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.heads.box import BoxHead
from rcnn.models.rpn import Level
from rcnn.structures import ImageBatch, Proposals, Targets
from rcnn.weights.systems.detectron2.system import RULES
from tests.deviations import assert_at_most, assert_norm_within, assert_within
from tests.known_features import known_levels, known_outputs
from tests.narrow import instance, present
from tests.parity.golden_detectron2 import (
    assert_rpn_stage,
    assert_stage,
    golden_images,
    golden_targets,
    match_sets,
)
from tests.whole_masks import whole_masks

Stored = dict[str, np.ndarray]
FIRST = 20  # proposals of each image for which the second stage's outputs are stored


def load(shared: Path, name: str, file: str) -> Stored:
    """One of a fixture's two files."""
    return dict(np.load(shared / "golden/detectron2" / name / file))


def assert_features(detector: Detector, images: ImageBatch, stored: Stored) -> dict[str, Tensor]:
    """The batch, the trunk's stages and the maps; returns the maps."""
    pixels = detector.normalize(images)
    assert tuple(pixels.shape) == tuple(stored["batch_shape"])
    assert_within("input batch", pixels[:, :, ::16, ::16], stored["batch_slice"], atol=1e-4)
    assert_stage(stored, "stem", instance(detector.backbone, ResNet).stem(pixels))
    maps = detector.backbone(pixels)
    features = maps if detector.fpn is None else detector.fpn(maps)
    for number in (2, 3, 4, 5):
        if f"bottom_up_res{number}_shape" in stored:
            assert_stage(stored, f"bottom_up_res{number}", maps[f"c{number}"])
    for level in detector.rpn.anchors.strides:  # C4's trunk gives finer maps too, which nothing uses
        assert_stage(stored, f"feat_{level.replace('c', 'res')}", features[level])
    return features


def assert_proposals(detector: Detector, levels: list[Level], images: ImageBatch, stored: Stored) -> None:
    """The outputs of the RPN's head and the set of proposals."""
    assert_rpn_stage(stored, levels)
    proposals = detector.rpn.predict({}, images)  # of the known outputs
    for image in range(2):
        expected = stored[f"proposals{image}_boxes"]
        ours = proposals.boxes[image][proposals.valid[image]].numpy()
        order = match_sets(ours, expected, None, None)
        assert_within("proposal boxes", ours[order], expected, atol=0.01)
        logits = proposals.objectness[image][proposals.valid[image]].numpy()[order]
        assert_norm_within("proposal logits", logits, stored[f"proposals{image}_logits"], 2e-5)


def stored_proposals(stored: Stored, count: int | None = None) -> Proposals:
    """The fixture's own proposals, in the peer's order."""
    boxes = torch.stack([torch.from_numpy(stored[f"proposals{image}_boxes"][:count]) for image in range(2)])
    return Proposals(boxes=boxes, objectness=boxes[..., 0], valid=torch.ones(boxes.shape[:2], dtype=torch.bool))


def assert_box_stage(head: BoxHead, features: dict[str, Tensor], boxes: Tensor, stored: Stored, stage: int = 0) -> None:
    """A box head's hidden features, scores and deltas of the regions `boxes` (2, FIRST, 4)."""
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    regions = head.region_features(features, boxes, valid)
    with patch.object(head, "region_features", return_value=regions):
        logits, deltas, _ = head.predict_regions(features, boxes, valid)
    for image in range(2):
        for name, ours, atol in (
            ("box_features", regions.vectors[image, :, ::16], 2e-3),
            ("cls_logits", logits[image], 2e-3),
            ("box_deltas", deltas[image].flatten(1), 5e-4),
        ):
            key = f"stage{stage}_{name}{image}"
            assert_within(f"box head {name}", ours, stored[key], atol=atol, rtol=1e-4)


def assert_detections(detector: Detector, images: ImageBatch, stored: Stored, shared: Path) -> None:
    """Sets of detections, and masks as probabilities and at image size."""
    detections = detector.predict(images)
    inputs = np.load(shared / "golden/detectron2/inputs.npz")
    for image in range(2):
        real = detections.valid[image]
        ours = detections.boxes[image][real].numpy()
        labels = detections.labels[image][real].numpy()
        order = match_sets(ours, stored[f"det{image}_boxes_resized"], labels, stored[f"det{image}_classes"])
        assert_within("detection boxes", ours[order], stored[f"det{image}_boxes_resized"], atol=0.02)
        scores = detections.scores[image][real].numpy()[order]
        assert_within("detection scores", scores, stored[f"det{image}_scores"], atol=3e-4)
        if detections.masks is None:
            continue
        masks = detections.masks[image][real][order]
        assert_norm_within("mask probabilities", masks, stored[f"det{image}_mask_probs"], 2e-4)
        height, width = inputs[f"image{image}"].shape[:2]
        scale = torch.tensor([width, height] * 2) / images.sizes[image].flip(0).repeat(2)
        original = torch.from_numpy(ours[order]) * scale
        assert_within("boxes in the image", original, stored[f"post{image}_boxes"], atol=0.02)
        pasted = whole_masks(masks, original, (height, width)).flatten(1).numpy()
        bits = np.unpackbits(stored[f"post{image}_masks_bits"], axis=1)[:, : height * width].astype(bool)
        assert_at_most("share of mask pixels that differ", float((pasted != bits).mean()), 1e-3)


def assert_training(
    detector: Detector,
    shared: Path,
    stored: Stored,
    names: dict[str, str],
    targets: Callable[[Path, tuple[int, ...]], Targets] = golden_targets,
) -> None:
    """Losses, also where one image is empty, and every stored gradient; `names` maps our loss names to theirs.

    The heads are trained on the peer's own proposals. Candidates can have nearly the same score or overlap, so that
    rounding decides which one becomes a proposal. One other proposal changes the losses by 4e-5 and the gradients by
    2e-3. So our own proposals are compared with the peer's as a set, in which a few may differ.
    """
    images, seed = golden_images(shared, detector.config.input.divisor), torch.tensor(0)
    with known_levels(detector, detector.features(images)) as levels, known_outputs(detector):
        proposals = stored_proposals(stored)
        assert_same_proposals(detector.rpn.training_proposals(levels, images), proposals)
        with patch.object(detector.rpn, "training_proposals", return_value=proposals):
            losses = detector.losses(images, targets(shared, ()), seed)
            assert_losses(losses, stored, "loss", names)
            if any(key.startswith("loss_image1_empty/") for key in stored):
                with torch.no_grad():
                    of_one = detector.losses(images, targets(shared, (1,)), seed)
                assert_losses(of_one, stored, "loss_image1_empty", names)
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients(detector, stored)


def assert_same_proposals(found: Proposals, expected: Proposals) -> None:
    """As many proposals per image; of the expected ones, at most 1 % are not among those found."""
    assert torch.equal(found.valid.sum(1), expected.valid.sum(1))
    for ours, theirs, valid in zip(found.boxes, expected.boxes, found.valid, strict=True):
        distance = (ours[valid][:, None] - theirs).abs().amax(-1).amin(0)
        assert_at_most("share of proposals that differ", float((distance > 0.01).double().mean()), 0.01)


def assert_gradients(detector: Detector, stored: Stored) -> None:
    """The L2 norm and the first 8 values of every stored gradient.

    The first values are compared as one vector: single values are sums that nearly cancel, and one ReLU that rounding
    switches in the peer changes them by more than their size. All 8 can be that small. So the unit of their error is
    the norm that 8 values of the gradient have on average, if that is larger than their own.
    """
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    assert len(gradients) == int(stored["n_params_with_grad"])
    errors = []
    for theirs, norm, first in zip(stored["grad_names"], stored["grad_norms"], stored["grad_head"], strict=True):
        gradient = gradients[present(RULES.rename(str(theirs)))]
        found = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()  # DC5's fc1 has 1e8 numbers
        assert_within("gradient norm", found / norm, 1.0, atol=5e-3)
        expected = first[: gradient.numel()].astype(np.float64)
        difference = np.linalg.norm(gradient.flatten()[:8].numpy() - expected)
        average = norm * (len(expected) / gradient.numel()) ** 0.5
        errors.append(float(difference / max(np.linalg.norm(expected), average)))
        assert_at_most("error of the first values / average norm of as many", errors[-1], 5e-2)
    assert_at_most("the same, root mean square over all gradients", float(np.sqrt(np.mean(np.square(errors)))), 2e-2)


def assert_losses(losses: dict[str, Tensor], stored: Stored, prefix: str, names: dict[str, str]) -> None:
    """Every loss, and that both sides have the same losses."""
    theirs = {key.split("/")[1] for key in stored if key.startswith(f"{prefix}/")}
    assert {names[name] for name in losses} == theirs
    for ours, value in losses.items():
        assert_within("losses", value.item(), stored[f"{prefix}/{names[ours]}"], rtol=1e-4)
