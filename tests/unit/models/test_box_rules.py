"""Inclusive boxes: our half-open tensors against the old systems' formulas, written out one box at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from rcnn.models.box_rules import BoxRules
from rcnn.models.build import FeatureMaps, build_box_head, build_keypoint_head, build_mask_head
from rcnn.models.config import (
    BoxHeadConfig,
    CompactConfig,
    DetectorConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    PoolerConfig,
    SelectionConfig,
)
from rcnn.models.heads.box import BoxHead, BoxOutputs
from rcnn.models.heads.mask import MaskHead
from rcnn.models.legacy.boxes import InclusiveBoxes, LooseInclusiveBoxes
from rcnn.models.pooler import RegionPooler
from rcnn.ops.boxes import box_iou
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.keypoints import keypoint_bins
from rcnn.ops.pasting import Pasting
from rcnn.ops.roi_align import assign_levels
from rcnn.results import ImageDetections
from rcnn.structures import Detections, Proposals
from tests.unit import legacy_formulas as legacy
from tests.unit.random_batches import images_of

ONES = (1.0, 1.0, 1.0, 1.0)
INCLUSIVE, LOOSE = InclusiveBoxes(), LooseInclusiveBoxes()


MAPS = FeatureMaps(rpn_strides={}, pooled_strides={"p2": 4}, channels=4)


def tiny(**parts: Any) -> DetectorConfig:
    return DetectorConfig(name="tiny", num_classes=1, backbone=CompactConfig(), **parts)


def some_boxes(count: int, seed: int, limit: float = 300) -> np.ndarray:
    """Inclusive boxes (count, 4) float64; the first is one pixel, the second has integers."""
    generator = np.random.default_rng(seed)
    first = generator.uniform(-20, limit, (count, 2))
    boxes = np.concatenate([first, first + generator.uniform(0, limit / 2, (count, 2))], 1)
    boxes[0] = [7, 9, 7, 9]
    boxes[1] = [10, 20, 109, 219]
    return boxes


def tensor(boxes: np.ndarray) -> Tensor:
    return torch.from_numpy(legacy.half_open(boxes)).float()


def test_encoding_is_the_same() -> None:
    boxes, truth = some_boxes(40, seed=0), some_boxes(40, seed=1)
    expected = np.stack([legacy.encode(b, t) for b, t in zip(boxes, truth, strict=True)])
    np.testing.assert_allclose(encode_deltas(tensor(truth), tensor(boxes), ONES), expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("rules", "formula"),
    [(INCLUSIVE, legacy.decode_detectron), (INCLUSIVE, legacy.decode_fcis), (LOOSE, legacy.decode_loose)],
)
def test_decoding(rules: BoxRules, formula: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    boxes = some_boxes(40, seed=0)
    deltas = np.random.default_rng(2).normal(0, 0.5, (40, 4))
    expected = np.stack([formula(b, d) for b, d in zip(boxes, deltas, strict=True)])
    found = rules.decode(torch.from_numpy(deltas)[None], tensor(boxes)[None], ONES)
    np.testing.assert_allclose(rules.to_inclusive(found)[0], expected, atol=1e-3)


def test_clipping_keeps_a_pixel_of_boxes_outside() -> None:
    boxes = some_boxes(60, seed=3)
    boxes[2], boxes[3] = [-90, -80, -20, -10], [900, 10, 950, 40]
    expected = np.stack([legacy.clip(box, 200, 150) for box in boxes])
    for rules in (INCLUSIVE, LOOSE):
        found = rules.clip(tensor(boxes)[None], torch.tensor([[200, 150]]))
        np.testing.assert_allclose(rules.to_inclusive(found)[0], expected, atol=1e-4)
    assert (expected[2] == 0).all()
    assert expected[3].tolist() == [149, 10, 149, 40]


def test_overlaps_suppression_and_levels_are_the_same() -> None:
    boxes = some_boxes(50, seed=4, limit=120)
    expected = [[legacy.overlap(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(box_iou(tensor(boxes), tensor(boxes)), expected, atol=1e-5)
    scores = np.random.default_rng(5).uniform(size=50)
    kept = torchvision.ops.nms(tensor(boxes), torch.from_numpy(scores).float(), 0.4)
    assert kept.tolist() == legacy.suppress(boxes, scores, 0.4)
    assert 10 < len(kept) < 50
    large = np.concatenate([boxes * scale for scale in (1, 2, 5, 9)])
    levels = [legacy.pyramid_level(box) for box in large]
    assert len(set(levels)) > 3
    assert (assign_levels(tensor(large)) + 2).tolist() == levels


def test_pooling_reads_the_last_pixel_itself() -> None:
    boxes = np.delete(some_boxes(12, seed=6, limit=60), 1, 0)
    features = {"p2": torch.randn(1, 2, 20, 20), "p3": torch.randn(1, 2, 10, 10)}
    config = PoolerConfig(size=7, aligned=False, sampling_ratio=2)
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    found = RegionPooler(config=config, strides={"p2": 4, "p3": 8}, rules=INCLUSIVE)(
        features, tensor(boxes)[None], valid
    )
    rois = torch.cat([torch.zeros(len(boxes), 1), torch.from_numpy(boxes).float()], 1)
    expected = torchvision.ops.roi_align(features["p2"], rois, 7, 1 / 4, 2, aligned=False)  # all are small: level 2
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_outlines_are_filled_in_frames_of_a_pixel_at_least() -> None:
    frames = INCLUSIVE.mask_frames(tensor(np.array([[3.0, 4, 3, 9], [1, 1, 5, 5]])))
    assert frames.tolist() == [[3, 4, 4, 9], [1, 1, 5, 5]]
    same = torch.tensor([[3.0, 4, 3, 9]])
    assert torch.equal(BoxRules().mask_frames(same), same)


@pytest.mark.parametrize("rules", [INCLUSIVE, LOOSE])
@pytest.mark.parametrize("scale", [1.0, 1.6, 0.55])
def test_final_boxes_are_decoded_in_the_files_pixels(
    rules: BoxRules, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectron's and mask-faster-rcnn's last step: proposals over the scale, decode, clip to the file, NMS."""
    height, width = 120, 160  # of the file
    proposals = some_boxes(30, seed=7, limit=100).clip(0, 90) * scale  # inclusive, in pixels of the input
    generator = np.random.default_rng(8)
    deltas, scores = generator.normal(0, 2, (30, 4)), generator.normal(0, 2, (30, 2))
    config = BoxHeadConfig(fc_width=4, class_agnostic=True, selection=SelectionConfig(max_detections=30, nms_iou=0.3))
    head = build_box_head(tiny(box=config), MAPS, rules)
    assert isinstance(head, BoxHead)
    outputs = BoxOutputs(torch.from_numpy(scores).float()[None], torch.from_numpy(deltas).float()[None, :, None], None)
    monkeypatch.setattr(head, "predict_regions", Mock(return_value=outputs))
    valid = torch.ones(1, 30, dtype=torch.bool)
    detections = head.predict(
        {},
        Proposals(boxes=tensor(proposals)[None], objectness=torch.zeros(1, 30), valid=valid),
        images_of(torch.tensor([[round(height * scale), round(width * scale)]]), torch.tensor([scale])),
    )

    decode = legacy.decode_detectron if rules is INCLUSIVE else legacy.decode_loose
    weights = np.array(config.delta_weights)
    boxes = [
        legacy.clip(decode(box / scale, delta / weights), height, width)
        for box, delta in zip(proposals, deltas, strict=True)
    ]
    probability = 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))
    chosen = [i for i in range(30) if probability[i] > config.score_threshold]
    left = legacy.suppress(np.stack([boxes[i] for i in chosen]), probability[chosen], 0.3)
    expected = np.stack([boxes[chosen[i]] for i in left])
    found = (detections.boxes[0] / scale)[detections.valid[0]]  # the file's pixels, half open
    assert len(expected) > 5
    np.testing.assert_allclose(rules.to_inclusive(found[None])[0], expected, atol=2e-3)


@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_masks_are_read_where_the_final_boxes_are_in_the_input(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MaskHeadConfig(convs=0, width=4)
    head = build_mask_head(tiny(mask=config), config, MAPS, INCLUSIVE, None)
    assert isinstance(head, MaskHead)
    seen = []

    def pool(_: object, boxes: Tensor, valid: Tensor) -> Tensor:
        seen.append(head.rules.to_inclusive(boxes))
        return torch.zeros(*valid.shape, 4, 14, 14)

    monkeypatch.setattr(head, "pooler", pool)
    in_file = some_boxes(5, seed=9)  # inclusive, in the file's pixels
    detections = Detections(
        boxes=(tensor(in_file) * scale)[None],
        scores=torch.zeros(1, 5),
        labels=torch.zeros(1, 5).long(),
        valid=torch.ones(1, 5).bool(),
    )
    head.predict({}, detections, images_of(torch.tensor([[99, 99]]), torch.tensor([scale])))
    np.testing.assert_allclose(seen[0][0], in_file * scale, atol=1e-3)  # Detectron's boxes times the scale


def test_half_open_boxes_are_unchanged() -> None:
    rules, boxes = BoxRules(), tensor(some_boxes(5, seed=10))[None]
    scales = torch.tensor([1.7])
    for same in (
        rules.to_inclusive(boxes),
        rules.last_pixel_to_original(boxes, scales),
        rules.last_pixel_to_input(boxes, scales),
    ):
        assert same is boxes
    torch.testing.assert_close(
        INCLUSIVE.last_pixel_to_input(INCLUSIVE.last_pixel_to_original(boxes, scales), scales), boxes
    )


@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_keypoints_are_predicted_in_file_pixels_and_trained_by_pixel(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectron's heatmaps cover raw boxes: in file pixels for prediction, in input pixels for training."""
    config = KeypointHeadConfig(names=("tip",), sigmas=(0.1,), flip_pairs=(), convs=1, width=4)
    head = build_keypoint_head(tiny(keypoint=config), config, MAPS, INCLUSIVE)
    in_file = np.array([[10.0, 20, 37.5, 60], [3, 4, 20, 9]])
    rows, columns = torch.arange(56.0)[:, None] - 30, torch.arange(56.0) - 12
    logits = -(rows**2 + columns**2).expand(1, 2, 1, 56, 56) / 20
    monkeypatch.setattr(head, "heatmaps", Mock(return_value=logits))
    detections = Detections(
        boxes=(tensor(in_file) * scale)[None],
        scores=torch.zeros(1, 2),
        labels=torch.zeros(1, 2).long(),
        valid=torch.ones(1, 2).bool(),
    )
    found = head.predict({}, detections, images_of(torch.tensor([[99, 99]]), torch.tensor([scale]))).keypoints
    assert found is not None
    for i, (x1, y1, x2, y2) in enumerate(in_file.tolist()):
        width, height = x2 - x1, y2 - y1
        place = np.array([(12.5 / 56) * width + x1, (30.5 / 56) * height + y1])  # Detectron's, to half a cell
        ours = found[0, i, 0, :2].numpy() / scale - 0.5  # our pixels' middles, its pixels' numbers
        assert (np.abs(ours - place) <= 0.5 * np.array([width, height]) / np.ceil([width, height])).all()
        # the map's cell of that pixel, by Detectron's formula for targets, in the input's pixels
        raw = (in_file[i] * scale).tolist()
        cell = [int((p * scale - raw[k]) * 56 / (raw[k + 2] - raw[k])) for k, p in enumerate(place)]
        points = torch.tensor([[[[*((place + 0.5) * scale), 2.0]]]]).float()
        raw_points = INCLUSIVE.raw_keypoints(points, torch.tensor([scale]))
        box = INCLUSIVE.to_inclusive(tensor(np.array([raw]))[None])
        bin_index, valid = keypoint_bins(raw_points, box, 56)
        assert bool(valid.all())
        assert int(bin_index) == cell[1] * 56 + cell[0] == 30 * 56 + 12


def test_masks_are_pasted_by_the_boxes_that_the_system_writes() -> None:
    mask = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(0)).numpy()
    box = np.array([[3.0, 4, 30, 22]], dtype=np.float32)  # inclusive
    theirs = ImageDetections(
        boxes=box,
        height=40,
        width=40,
        scores=np.ones(1, np.float32),
        labels=np.zeros(1, np.int64),
        box_masks=mask,
        pasting=Pasting(kind="padded"),
    )
    inclusive = Pasting(kind="padded", last_pixel_inside=True)
    ours = replace(theirs, boxes=legacy.half_open(box).astype(np.float32), pasting=inclusive)
    assert ours.rles() == theirs.rles()
    assert ours.rles() != replace(ours, pasting=Pasting(kind="padded")).rles()
