"""FCIS of ChainerCV and chainer-fcis, stage by stage: their files converted, their photo, their numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.rpn import Level
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.structures import ImageBatch, Proposals, Targets
from rcnn.weights.systems.fcis.system import CHAINER_FCIS_RULES, CHAINERCV_RULES
from tests.deviations import assert_at_most, assert_within
from tests.parity.golden_detectron2 import assert_same_ranking
from tests.parity.golden_fcis import FIXTURES, converted_detector, unpacked, write_peer_file, xyxy

CHAINERCV, CHAINER_FCIS = FIXTURES
LABEL_SHIFT = {CHAINERCV: 0, CHAINER_FCIS: 1}  # chainer-fcis counts the background
SCALES, RATIOS = 4, 3


@dataclass(frozen=True)
class Peer:
    """A fixture's numbers, and what our detector from its file makes of its photo."""

    name: str
    stored: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]
    detector: Detector
    predictor: Predictor
    batch: ImageBatch
    features: dict[str, Tensor]

    @property
    def head(self) -> FCISHead:
        assert isinstance(self.detector.box_head, FCISHead)
        return self.detector.box_head


@pytest.fixture(scope="module", params=FIXTURES)
def peer(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    folder = shared / "golden/chainer" / request.param
    path = write_peer_file(shared, request.param, tmp_path_factory.mktemp("fcis"))
    detector, converted = converted_detector(path)
    path.unlink()
    stored = dict(np.load(folder / "inference.npz"))
    predictor = Predictor(detector, classes=converted.classes, device="cpu")
    prepared, _ = predictor.prepare(torch.from_numpy(stored["image"]))
    scale = torch.tensor([float(stored["scale"])], dtype=torch.float32)
    batch = ImageBatch(
        pixels=prepared[None],
        sizes=torch.tensor([prepared.shape[1:]]),
        scales=scale,
        originals=torch.tensor([stored["image"].shape[1:]]),
    )
    with torch.inference_mode():
        features = detector.features(batch)
    return Peer(request.param, stored, dict(np.load(folder / "losses.npz")), detector, predictor, batch, features)


def test_prepared_image(peer: Peer) -> None:
    """Computed pixel by pixel, with equal results on every CPU."""
    stored = peer.stored
    assert tuple(peer.batch.pixels.shape[1:]) == tuple(stored["prepared_shape"])
    ours = peer.detector.normalize(peer.batch)[0].numpy()
    if "prepared" in stored:
        assert_within("input batch", ours, stored["prepared"], atol=2e-3, fixed=True)
    else:
        assert_within("input batch", ours[:, 64:96, 64:128], stored["prepared_slice"], atol=2e-3, fixed=True)


def test_features(peer: Peer) -> None:
    assert_within("features c4", peer.features["c4"][0, ::16], peer.stored["c4"], atol=3e-5)
    assert_within("features c5", peer.features["c5"][0, ::32], peer.stored["c5"], atol=3e-5)


def their_order(values: Tensor) -> Tensor:
    """Our rows (y, x, size, ratio) as theirs: (y, x, ratio, size)."""
    return values.unflatten(0, (-1, SCALES, RATIOS)).transpose(1, 2).flatten(0, 2)


def rpn_level(peer: Peer) -> Level:
    with torch.inference_mode():
        [level] = peer.detector.rpn.head(peer.features)
    return level


def test_rpn(peer: Peer) -> None:
    level, stored = rpn_level(peer), peer.stored
    anchors = their_order(level.anchors)[:24].numpy()
    assert_within("anchors", anchors[:, [1, 0, 3, 2]], stored["anchor_first_cells"], atol=1e-3)
    assert_within("rpn scores", their_order(level.sort_keys[0]), stored["rpn_score"][:, 1], atol=1e-4)
    difference = stored["rpn_score"][:, 1] - stored["rpn_score"][:, 0]
    assert_within("rpn logits", their_order(level.logits[0]), difference, atol=2e-4)
    assert_within("rpn deltas", their_order(level.deltas[0]).numpy()[:, [1, 0, 3, 2]], stored["rpn_loc"], atol=5e-5)


@pytest.fixture(scope="module")
def precise(peer: Peer) -> tuple[Detector, dict[str, Tensor]]:
    """The detector in float64, and its features with their graph."""
    detector = copy.deepcopy(peer.detector).double()
    return detector, detector.features(peer.batch)


@torch.no_grad()
def test_proposals(peer: Peer, precise: tuple[Detector, dict[str, Tensor]]) -> None:
    """In float64: in float32 without vector instructions a box moves by 1.5e-3 pixels, too near the tolerance."""
    detector, features = precise
    proposals = detector.rpn.predict(features, peer.batch)
    assert proposals.valid.all()
    stored = xyxy(peer.stored["proposals"]).numpy()
    assert_same_ranking("proposal boxes", proposals.boxes[0].numpy(), stored, atol=2e-3, fixed=True)


def test_maps(peer: Peer) -> None:
    stored = peer.stored
    with torch.inference_mode():
        reduced = peer.head.reduce(peer.features["c5"])
        maps, deltas = peer.head.score_maps(peer.features)
    assert_within("reduced features", reduced[0, ::32], stored["head_conv"], atol=3e-5)
    classes = maps[0].unflatten(0, (-1, 98)).roll(1, 0).flatten(0, 1)  # theirs: background first
    assert_within("score maps", classes[stored["cls_seg_channels"]], stored["cls_seg_maps"], atol=3e-4)
    channels = stored["ag_loc_channels"] - 4 * 49  # the foreground's slot
    known = channels >= 0
    x, y = channels // 49 % 4, channels % 49
    ours = deltas[0].numpy()[(np.array([1, 0, 3, 2])[x] * 49 + y)[known]]
    assert_within("delta maps", ours, stored["ag_loc_maps"][known], atol=3e-4)


def test_regions(peer: Peer) -> None:
    """Scores, offsets and masks of both passes from the stored boxes, and the boxes that the first pass moves to."""
    stored, head = peer.stored, peer.head
    boxes = xyxy(stored["rois_both"])[None]
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    with torch.inference_mode():
        maps = head.score_maps(peer.features)
        pooled = head.pool(maps, boxes, valid)
        scores, masks, moved = head.predict_regions(maps, boxes, valid)
    first = pooled.outside_inside[0, :3].roll(1, 1)[:, stored["pooled_classes"]]
    assert_within("pooled maps", first, stored["pooled_cls_seg_first3"], atol=3e-4)
    expected = torch.from_numpy(stored["roi_cls_score"])
    assert_within("class logits", pooled.logits[0].roll(1, 1), expected, atol=1e-4)
    assert_within("class scores", scores[0], expected.softmax(1)[:, 1:], atol=1e-4)
    assert_within("box deltas", pooled.deltas[0].numpy()[:, [1, 0, 3, 2]], stored["roi_ag_loc"][:, 1], atol=1e-4)
    outside, inside = torch.from_numpy(stored["roi_seg_score"]).unbind(1)
    ours = masks[0, stored["roi_seg_index"]]
    assert_within("mask probabilities", ours, (inside - outside).sigmoid(), atol=1e-4)
    moved = peer.detector.rules.clip(moved[:, :300], peer.batch.sizes)
    assert_within("refined boxes", moved[0], boxes[0, 300:], atol=2e-3)


@pytest.mark.parametrize("ending", ["", "03"])
def test_detections(peer: Peer, ending: str) -> None:
    """The whole pipeline: from the photo to boxes and masks in its pixels."""
    stored = peer.stored
    predictor = peer.predictor
    if ending:
        detector = predictor.detector
        assert isinstance(detector.box_head, FCISHead)
        before = detector.box_head.config
        detector.box_head.config = replace(before, score_threshold=0.3)
        [found] = predictor.predict([torch.from_numpy(stored["image"])])
        detector.box_head.config = before
    else:
        [found] = predictor.predict([torch.from_numpy(stored["image"])])
    prefix, boxes = ("score03_", "bbox_score03") if ending else ("", "bbox")
    order = np.lexsort((-found.scores, found.labels))  # theirs: class after class
    np.testing.assert_array_equal(found.labels[order], stored[f"{prefix}label"] - LABEL_SHIFT[peer.name])
    assert_within("detection scores", found.scores[order], stored[f"{prefix}score"], atol=1e-4)
    off = np.abs(found.boxes[order][:, [1, 0, 3, 2]] - stored[boxes]).max(1)
    assert (off > 1e-3).sum() <= 3
    assert off.max() <= 2 + 1e-3
    compare_masks(found, order, unpacked(stored[f"{prefix}masks_packed"], stored["mask_shape"]))


def compare_masks(found: ImageDetections, order: np.ndarray, expected: np.ndarray) -> None:
    """Masks at image size: at most a thousandth of all pixels differ, and each large mask is the same nearly wholly."""
    pasted = found.pasted_masks()
    assert pasted is not None
    masks = list(pasted)
    ours = np.zeros_like(expected)
    for canvas, place in zip(ours, order, strict=True):
        x0, y0, mask = masks[place]
        canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
    assert_at_most("share of mask pixels that differ", float((ours != expected).mean()), 1e-3)
    both, either = (ours & expected).sum((1, 2)), (ours | expected).sum((1, 2))
    large = expected.sum((1, 2)) > 100
    assert large.any()
    assert (both[large] / either[large] < 0.97).sum() <= 2


def truth(peer: Peer) -> Targets:
    """The fixture's ground truth, in pixels of the network's input."""
    bitmaps = torch.from_numpy(unpacked(peer.losses["gt_mask_packed"], peer.losses["gt_mask_shape"]))
    return Targets(
        boxes=xyxy(peer.losses["gt_bbox"])[None],
        labels=torch.from_numpy(peer.losses["gt_label_zero_based"]).long()[None],
        valid=torch.ones(1, len(bitmaps), dtype=torch.bool),
        bitmaps=bitmaps[None],
    )


def test_losses_and_gradients(peer: Peer, precise: tuple[Detector, dict[str, Tensor]]) -> None:
    """Every anchor and region is sampled, as in the peer's run, so that no random number matters.

    The sum of a gradient of N elements is compared in units of sqrt(N) times its norm, the largest possible sum: see
    test_golden_chainer_mask. In float64, because in float32 our rounding takes 40 % of the tolerance of a sum.
    """
    (detector, features), stored = precise, peer.losses
    head = detector.box_head
    assert isinstance(head, FCISHead)
    expected = dict(zip(stored["loss_names"].tolist(), stored["loss_values"].tolist(), strict=True))
    part = "roi" if peer.name == CHAINERCV else "fcis"
    rpn_config, config = detector.rpn.config, head.config
    all_anchors = replace(rpn_config.sampling, batch_size=4000, positive_fraction=1.0)
    all_regions = replace(config.sampling, batch_size=400, positive_fraction=1.0)
    boxes = xyxy(stored["train_proposals"])[None]
    proposals = Proposals(
        boxes=boxes, objectness=torch.zeros(boxes.shape[:2]), valid=torch.ones(boxes.shape[:2], dtype=torch.bool)
    )
    targets, seed = truth(peer), torch.tensor(0)
    with (
        patch.object(detector.rpn, "config", replace(rpn_config, sampling=all_anchors)),
        patch.object(head, "config", replace(config, sampling=all_regions)),
    ):
        losses = detector.rpn.sampled_losses(detector.rpn.head(features), peer.batch, targets, seed)
        regions, head_losses = head.losses(features, proposals, peer.batch, targets, seed)
    losses |= head_losses
    ours = {name: value.item() for name, value in losses.items()}

    assert int(regions.valid.sum()) == len(stored["sample_roi"])
    assert int(regions.positive.sum()) == int((stored["gt_roi_label"] > 0).sum())
    theirs = {"rpn_objectness": "rpn_cls", "rpn_box": "rpn_loc", "box_class": f"{part}_cls", "box_delta": f"{part}_loc",
              "mask": f"{part}_mask"}  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert_within("losses", value, expected[f"{theirs[name]}_loss"], rtol=1e-5, fixed=True)
    assert_within("sum of losses", sum(ours.values()), expected["loss"], rtol=2e-5, fixed=True)

    torch.stack(list(losses.values())).sum().backward()
    layers = CHAINERCV_RULES if peer.name == CHAINERCV else CHAINER_FCIS_RULES
    parameters = dict(detector.named_parameters())
    assert len(stored["grad_names"]) > 10
    for name, norm, total in zip(stored["grad_names"].tolist(), stored["grad_l2"], stored["grad_sum"], strict=True):
        gradient = parameters[str(layers.rename(name))].grad
        assert gradient is not None, name
        assert_within("gradient norm", gradient.norm().item() / norm, 1.0, atol=1e-3, fixed=True)
        largest, total_found = norm * gradient.numel() ** 0.5, gradient.sum().item()
        assert_within("sum of a gradient / largest", total_found / largest, total / largest, atol=1e-4, fixed=True)
