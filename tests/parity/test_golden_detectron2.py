"""Detectron2, stage by stage, for weights converted from its own file formats (../shared/golden/detectron2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.models.regions import pool_regions
from rcnn.ops.masks import paste_masks
from rcnn.weights.detectron2 import rename
from tests.parity.golden_detectron2 import (
    assert_stage,
    golden_detector,
    golden_images,
    golden_targets,
    match_sets,
)

INFERENCE = [
    "faster_rcnn_R_50_FPN_1x",
    "mask_rcnn_R_50_FPN_1x",
    "mask_rcnn_R_50_C4_1x",
    "mask_rcnn_R_101_FPN_3x",
]
TRAINING = INFERENCE[:3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectron2")


@pytest.mark.parametrize("name", INFERENCE)
@torch.no_grad()
def test_inference_equals_detectron2_stage_by_stage(shared: Path, folder: Path, name: str) -> None:
    suffix = ".pth" if name == "faster_rcnn_R_50_FPN_1x" else ".pkl"
    detector = golden_detector(shared, name, folder, suffix=suffix)
    stored = dict(np.load(shared / "golden/detectron2" / name / "inference.npz"))
    images = golden_images(shared, detector.config.input.divisor)

    pixels = detector.normalize(images)
    assert tuple(pixels.shape) == tuple(stored["batch_shape"])
    np.testing.assert_allclose(pixels[:, :, ::16, ::16].numpy(), stored["batch_slice"], atol=1e-4)
    assert_stage(stored, "stem", detector.backbone.stem(pixels), atol=2e-4)
    maps = detector.backbone(pixels)
    features = detector.features(images)
    for number in (2, 3, 4, 5):
        if f"bottom_up_res{number}_shape" in stored:
            assert_stage(stored, f"bottom_up_res{number}", maps[f"c{number}"], atol=2e-4)
    for level in detector.rpn.strides:  # C4's trunk gives finer maps too, which nothing uses
        assert_stage(stored, f"feat_{level.replace('c', 'res')}", features[level], atol=2e-4)
    for level, key in enumerate(detector.rpn.strides):
        x = detector.rpn.convs(features[key])
        assert_stage(stored, f"rpn_logits_l{level}", detector.rpn.objectness(x), atol=3e-4)
        assert_stage(stored, f"rpn_deltas_l{level}", detector.rpn.deltas(x), atol=3e-5)

    proposals = detector.rpn.predict(features, images.sizes)
    for image in range(2):
        wanted = stored[f"proposals{image}_boxes"]
        ours = proposals.boxes[image][proposals.valid[image]].numpy()
        order = match_sets(ours, wanted, None, None)
        np.testing.assert_allclose(ours[order], wanted, atol=0.01)
        logits = proposals.scores[image][proposals.valid[image]].numpy()[order]
        np.testing.assert_allclose(logits, stored[f"proposals{image}_logits"], atol=3e-4)

    # the second stage on the stored proposals, whose order is then the peer's
    boxes = torch.stack([torch.from_numpy(stored[f"proposals{image}_boxes"][:20]) for image in range(2)])
    valid = torch.ones(2, 20, dtype=torch.bool)
    head = detector.box_head
    pooled = pool_regions(features, head.strides, boxes, valid, head.config, head.config.level_eps_inside)
    hidden = head.features(pooled.flatten(0, 1))
    hidden = (hidden.mean((2, 3)) if hidden.ndim == 4 else hidden).unflatten(0, (2, 20))
    logits, deltas, _ = head.classify(features, boxes, valid)
    for image in range(2):
        np.testing.assert_allclose(
            hidden[image, :, ::16].numpy(), stored[f"stage0_box_features{image}"], atol=2e-3, rtol=1e-4
        )
        np.testing.assert_allclose(logits[image].numpy(), stored[f"stage0_cls_logits{image}"], atol=2e-3, rtol=1e-4)
        np.testing.assert_allclose(
            deltas[image].flatten(1).numpy(), stored[f"stage0_box_deltas{image}"], atol=5e-4, rtol=1e-4
        )

    detections = detector.predict(images)
    inputs = np.load(shared / "golden/detectron2/inputs.npz")
    for image in range(2):
        real = detections.valid[image]
        ours = detections.boxes[image][real].numpy()
        labels = detections.labels[image][real].numpy()
        order = match_sets(ours, stored[f"det{image}_boxes_resized"], labels, stored[f"det{image}_classes"])
        np.testing.assert_allclose(ours[order], stored[f"det{image}_boxes_resized"], atol=0.02)
        scores = detections.scores[image][real].numpy()[order]
        np.testing.assert_allclose(scores, stored[f"det{image}_scores"], atol=3e-4)
        if detections.masks is None:
            continue
        masks = detections.masks[image][real][order]
        np.testing.assert_allclose(masks.numpy(), stored[f"det{image}_mask_probs"], atol=1e-3)
        height, width = inputs[f"image{image}"].shape[:2]
        scale = torch.tensor([width, height] * 2) / images.sizes[image].flip(0).repeat(2)
        original = torch.from_numpy(ours[order]) * scale
        np.testing.assert_allclose(original.numpy(), stored[f"post{image}_boxes"], atol=0.02)
        pasted = paste_masks(masks, original, (height, width)).flatten(1).numpy()
        bits = np.unpackbits(stored[f"post{image}_masks_bits"], axis=1)[:, : height * width].astype(bool)
        assert (pasted != bits).mean() <= 1e-3


@pytest.mark.parametrize("name", TRAINING)
def test_losses_and_gradients_equal_detectron2(shared: Path, folder: Path, name: str) -> None:
    suffix = ".pth" if name == "mask_rcnn_R_50_C4_1x" else ".pkl"  # each network meets both forms of file somewhere
    detector = golden_detector(shared, name, folder, config="config_train.yaml", suffix=suffix)
    stored = dict(np.load(shared / "golden/detectron2" / name / "train.npz"))
    images, seed = golden_images(shared, detector.config.input.divisor), torch.tensor(0)

    losses = detector.losses(images, golden_targets(shared), seed)
    assert_losses(losses, stored, "loss")
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    assert len(gradients) == int(stored["n_params_with_grad"])
    for theirs, norm, head in zip(stored["grad_names"], stored["grad_norms"], stored["grad_head"], strict=True):
        gradient = gradients[rename(str(theirs))]
        np.testing.assert_allclose(gradient.norm().item(), norm, rtol=5e-3, err_msg=theirs)
        np.testing.assert_allclose(gradient.flatten()[:8].numpy(), head[: gradient.numel()], atol=1e-3 * norm)

    if "loss_image1_empty/loss_cls" in stored:
        with torch.no_grad():
            losses = detector.losses(images, golden_targets(shared, empty=(1,)), seed)
        assert_losses(losses, stored, "loss_image1_empty")


THEIR_LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_loc",
    "box_class": "loss_cls",
    "box_delta": "loss_box_reg",
    "mask": "loss_mask",
}


def assert_losses(losses: dict[str, torch.Tensor], stored: dict[str, np.ndarray], prefix: str) -> None:
    for ours, value in losses.items():
        np.testing.assert_allclose(value.item(), stored[f"{prefix}/{THEIR_LOSSES[ours]}"], rtol=1e-4, err_msg=ours)
