"""Mask R-CNN of the two Chainer ports, stage by stage, for weights converted from their own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.systems.chainer.system import RULES
from tests.deviations import assert_at_most, assert_norm_within, assert_within
from tests.narrow import instance
from tests.parity.golden_chainer import converted_detector
from tests.parity.golden_detectron2 import assert_same_ranking, match_sets

NAMES = {"wkentaro": "mask_rcnn_resnet50_coco_wkentaro", "dena": "mask_rcnn_resnet50_coco_dena"}
SETTINGS = {"wkentaro": "min_size=192 max_size=320", "dena": "min_size=192 max_size=320 --roi_size 14"}
SMALL = ["rpn.proposals.post_nms=120", "rpn.proposals.post_nms_train=100"]
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
SIZES, RATIOS = 5, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chainer")


def xyxy(boxes: np.ndarray) -> Tensor:
    return torch.from_numpy(boxes[..., [1, 0, 3, 2]].copy())


def their_anchors(values: Tensor) -> Tensor:
    """Our rows (H*W*A, ...), sizes outer, in their order: ratios outer."""
    return values.unflatten(0, (-1, SIZES, RATIOS)).transpose(1, 2).flatten(0, 2)


def prepared_batch(predictor: Predictor, image: np.ndarray) -> tuple[ImageBatch, Tensor]:
    prepared, frame = predictor.prepare(torch.from_numpy(image))
    sizes = torch.tensor([prepared.shape[1:]])
    batch = ImageBatch(
        pixels=prepared[None],
        sizes=sizes,
        scales=torch.tensor([sizes[0, 1] / frame.original[1]]),
        originals=torch.tensor([frame.original]),
    )
    return batch, prepared


@pytest.mark.parametrize("system", NAMES)
@torch.no_grad()
def test_inference_equals_the_peer_stage_by_stage(shared: Path, folder: Path, system: str) -> None:
    changes = [*SMALL, "box.selection.max_detections=1000"]
    detector, _ = converted_detector(shared, NAMES[system], folder, SETTINGS[system], changes)
    stored = dict(np.load(shared / "golden/chainer" / NAMES[system] / "inference.npz"))
    predictor = Predictor(detector, classes=[str(i) for i in range(80)], device="cpu")
    images, _ = prepared_batch(predictor, stored["image"])
    assert_within("input batch", detector.normalize(images)[0], stored["prepared"], atol=1e-4)

    features = detector.features(images)
    assert_within("features", features["c4"][0, ::16], stored["c4"], atol=3e-5)
    [level] = detector.rpn.head(features)
    assert_within("rpn logits", their_anchors(level.logits[0]), stored["rpn_score"], atol=1e-4)
    assert_within("rpn deltas", their_anchors(level.deltas[0])[:, [1, 0, 3, 2]], stored["rpn_loc"], atol=5e-5)
    first = their_anchors(level.anchors)[:30]
    assert_within("anchors", first, xyxy(stored["anchor_first_cells"]), atol=1e-3)

    proposals = detector.rpn.predict(features, images)
    expected = xyxy(stored["proposals"])
    assert proposals.valid.sum() == len(expected)
    assert_same_ranking("proposal boxes", proposals.boxes[0].numpy(), expected.numpy(), atol=2e-3)

    boxes, valid = expected[None], torch.ones(1, len(expected), dtype=torch.bool)
    head = instance(detector.box_head, BoxHead)
    pooled = head.pooler(features, boxes[:, :2], valid[:, :2])
    assert_within("pooled features", pooled[0, :, ::16], stored["pooled_first2"], atol=5e-5)
    outputs = head.predict_regions(features, boxes, valid)
    assert_within("class logits", outputs.logits[0].roll(1, 1), stored["roi_score"], atol=1e-4)
    deltas = stored["roi_cls_loc_first32"].reshape(32, 81, 4)[:, 1:][..., [1, 0, 3, 2]]
    assert_within("box deltas", outputs.deltas[0, :32], deltas, atol=1e-4)
    maps = head.trunk(pooled.flatten(0, 1))
    mask_head = instance(detector.mask_head, MaskHead)
    for label in (0, 41):
        ours = mask_head.class_logits(maps, torch.full((1, 2), label), valid[:, :2])[0]
        theirs = stored["roi_mask_logits_first2"][:, label if system == "wkentaro" else label + 1]
        assert_within("mask logits of given boxes", ours, theirs, atol=3e-4)

    if system == "wkentaro":
        detector.mask_head = None  # the fixture has no masks of these detections, of which there are hundreds
        predictor = Predictor(detector, classes=[str(i) for i in range(80)], device="cpu")
    [found] = predictor.predict([torch.from_numpy(stored["image"])])
    if system == "wkentaro":
        assert_same(found, stored["nocap_bbox"], stored["nocap_label"], stored["nocap_score"])
    else:
        labels = np.searchsorted(COCO_IDS, stored["label"])
        order = assert_same(found, stored["bbox"], labels, stored["score"])
        assert_same_masks(found, order, stored)


def assert_same(found: ImageDetections, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> list[int]:
    """The same detections in any order; returns the index of our detection for each stored one."""
    expected = xyxy(boxes).numpy()
    order = match_sets(found.boxes, expected, found.labels, labels)
    assert_within("detection boxes", found.boxes[order], expected, atol=2e-2)
    assert_within("detection scores", found.scores[order], scores, atol=1e-4)
    return order


def assert_same_masks(found: ImageDetections, order: list[int], stored: dict[str, np.ndarray]) -> None:
    count, height, width = stored["mask_shape"]
    masks = (
        np.unpackbits(stored["masks_packed"], axis=1)[:, : height * width].reshape(count, height, width).astype(bool)
    )
    assert found.box_masks is not None
    logits = torch.from_numpy(found.box_masks).logit()[order]
    assert_norm_within("mask logits", logits, stored["detection_mask_logits"], 2e-5)
    pasted = list(found.pasted_masks() or ())
    ours = np.zeros_like(masks)
    for canvas, place in zip(ours, order, strict=True):
        x0, y0, part = pasted[place]
        canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    assert_at_most("share of mask pixels that differ", float((ours != masks).mean()), 1e-3)
    together, either = (ours & masks).sum((1, 2)), (ours | masks).sum((1, 2))
    large = masks.sum((1, 2)) > 100
    assert ((together / either.clip(1))[large] < 0.97).sum() <= 2


EVERYTHING = [
    "rpn.sampling.batch_size=8000",
    "box.sampling.batch_size=500",
    "backbone.trained_affine=true",
    "backbone.frozen_stages=0",
]
THEIR_LOSSES = {
    "rpn_objectness": "rpn_cls_loss", "rpn_box": "rpn_loc_loss", "box_class": "roi_cls_loss",
    "box_delta": "roi_loc_loss", "mask": "roi_mask_loss",
}  # fmt: skip


@pytest.mark.parametrize("system", NAMES)
def test_losses_and_gradients_equal_the_peer(shared: Path, folder: Path, system: str) -> None:
    """Every anchor and region is sampled, as in the peer's run, so that no random number matters.

    The sum of a gradient of N elements is compared in units of sqrt(N) times its norm, the largest possible sum. In
    these units its error is at most the relative error of the gradient (Cauchy-Schwarz). In units of the norm alone,
    the stored float32 sum of 2 million elements of both signs differs from the sum in float64 by 1e-2.
    """
    changes = [*SMALL, *EVERYTHING]
    detector, _ = converted_detector(shared, NAMES[system], folder, SETTINGS[system], changes)
    folded = shared / "golden/chainer" / NAMES[system]
    stored = dict(np.load(folded / "losses.npz"))
    image = np.load(folded / "inference.npz")["image"]
    predictor = Predictor(detector, classes=[str(i) for i in range(80)], device="cpu")
    images, _ = prepared_batch(predictor, image)
    shape = tuple(stored["gt_mask_shape"])
    bits = np.unpackbits(stored["gt_mask_packed"], axis=1)[:, : shape[1] * shape[2]].reshape(shape).astype(bool)
    targets = Targets(
        boxes=xyxy(stored["gt_bbox"])[None],
        labels=torch.from_numpy(stored["gt_label_zero_based"].astype(np.int64))[None],
        valid=torch.ones(1, shape[0], dtype=torch.bool),
        bitmaps=torch.from_numpy(bits)[None],
    )

    losses = detector.losses(images, targets, torch.tensor(0))
    expected = dict(zip(stored["loss_names"].tolist(), stored["loss_values"], strict=True))
    for name, value in losses.items():
        assert_within("losses", value.item(), expected[THEIR_LOSSES[name]], rtol=2e-5)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: value.grad for name, value in detector.named_parameters()}
    for name, norm, total, first in zip(
        stored["grad_names"], stored["grad_l2"], stored["grad_sum"], stored["grad_first16"], strict=True
    ):
        ours = gradients[RULES.rename(str(name)) or ""]
        assert ours is not None, name
        gradient = in_their_order(str(name), ours).double()
        assert_within("gradient norm", gradient.norm().item() / norm, 1.0, atol=1e-3)
        largest = norm * gradient.numel() ** 0.5
        assert_within("sum of a gradient / largest", gradient.sum().item() / largest, total / largest, atol=1e-4)
        count = min(16, gradient.numel())
        assert_within("first values / norm", gradient.flatten()[:count] / norm, first[:count] / norm, atol=1e-3)


def in_their_order(name: str, gradient: Tensor) -> Tensor:
    """Our gradient with rows in the peer's order; rows that only the peer has (the background's box) are zero."""
    part = name.rpartition("/")[0]
    if part in ("rpn/score", "rpn/loc"):
        each = 4 if part == "rpn/loc" else 1
        gradient = gradient.unflatten(0, (SIZES, RATIOS, each)).transpose(0, 1).flatten(0, 2)
    if part == "head/score":
        gradient = gradient.roll(1, 0)
    if part == "head/cls_loc":
        gradient = torch.cat([torch.zeros_like(gradient[:4]), gradient])
    if part == "head/convm2":
        gradient = torch.cat([torch.zeros_like(gradient[:1]), gradient])
    if part in ("rpn/loc", "head/cls_loc"):
        gradient = gradient.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
    return gradient
