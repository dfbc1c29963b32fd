"""Matching of boxes to ground truth, against torchvision's Matcher and values computed by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from rcnn.ops import matching
from rcnn.ops.matching import highest_iou, in_crowds, match_anchors
from tests.compiled import FORWARD
from tests.unit.random_boxes import random_boxes


def by_torchvision(boxes: Tensor, targets: Tensor, low: float, high: float, low_quality: bool) -> tuple[Tensor, Tensor]:
    """(matched, label) of one image with targets, all of them real."""
    iou = torchvision.ops.box_iou(targets, boxes)
    value = Matcher(high, low, allow_low_quality_matches=low_quality)(iou)
    label = torch.where(value >= 0, 1, torch.where(value == Matcher.BELOW_LOW_THRESHOLD, 0, -1))
    return iou.max(0)[1], label


@pytest.mark.parametrize(
    ("low", "high", "low_quality"), [(0.3, 0.7, True), (0.4, 0.4, True), (0.5, 0.5, False), (0.6, 0.6, False)]
)
@pytest.mark.parametrize("targets", [1, 7, 100])
def test_equals_torchvisions_matcher(targets: int, low: float, high: float, low_quality: bool) -> None:
    boxes, objects = random_boxes(2, 300, seed=0), random_boxes(2, targets, seed=1)
    valid = torch.arange(targets) < torch.tensor([[targets], [max(1, targets // 2)]])
    if low_quality:
        matched, label = match_anchors(boxes, objects, valid, low, high)
    else:
        iou, matched = highest_iou(boxes, objects, valid)
        label = (iou >= high).long()
    for image in range(2):
        real = objects[image, valid[image]]
        expected = by_torchvision(boxes[image], real, low, high, low_quality)
        assert torch.equal(label[image], expected[1])
        assert torch.equal(matched[image], expected[0])
    assert (label == 0).any()
    assert (label == 1).any() or targets < 100


def test_images_may_share_their_boxes() -> None:
    anchors, objects = random_boxes(200, seed=2), random_boxes(3, 5, seed=3)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    shared = match_anchors(anchors, objects, valid, 0.3, 0.7)
    own = match_anchors(anchors.expand(3, -1, -1), objects, valid, 0.3, 0.7)
    assert torch.equal(shared[0], own[0])
    assert torch.equal(shared[1], own[1])
    matched, label = match_anchors(anchors, objects[1:2, [0, 2]], torch.ones(1, 2, dtype=torch.bool), 0.3, 0.7)
    assert torch.equal(shared[1][1], label[0])
    overlapping = torchvision.ops.box_iou(objects[1, [0, 2]], anchors).amax(0) > 0
    assert torch.equal(shared[0][1][overlapping], torch.tensor([0, 2])[matched[0]][overlapping])


def test_without_targets_all_is_background() -> None:
    boxes = random_boxes(2, 20, seed=4)
    for capacity in (0, 3):
        nothing = torch.zeros(2, capacity, dtype=torch.bool)
        matched, label = match_anchors(boxes, torch.zeros(2, capacity, 4), nothing, 0.3, 0.7)
        iou, first = highest_iou(boxes, torch.zeros(2, capacity, 4), nothing)
        assert iou.eq(-1).all()
        assert first.eq(0).all()
        assert matched.eq(0).all()
        assert label.eq(0).all()
        assert label.shape == (2, 20)


def test_without_boxes_there_is_nothing_to_match() -> None:
    matched, label = match_anchors(torch.zeros(2, 0, 4), random_boxes(2, 3, seed=0), torch.ones(2, 3).bool(), 0.3, 0.7)
    assert matched.shape == label.shape == (2, 0)


def test_thresholds_ties_and_low_quality_by_hand() -> None:
    targets = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]])
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 7.5],  # 0.75 with the first two: the first of equals, and an object
            [0.0, 0.0, 10.0, 5.0],  # 0.5: exactly `positive_iou`
            [0.0, 0.0, 10.0, 2.5],  # 0.25: exactly `negative_iou`, so ignored
            [0.0, 0.0, 10.0, 2.0],  # 0.2: background
            [50.0, 50.0, 60.0, 51.0],  # 0.1, but nothing is nearer to the third
        ]
    )[None]
    valid = torch.ones(1, 3, dtype=torch.bool)
    matched, label = match_anchors(boxes, targets, valid, 0.25, 0.5)
    assert matched.tolist() == [[0, 0, 0, 0, 2]]
    assert label.tolist() == [[1, 1, -1, 0, 1]]
    label = match_anchors(boxes, targets, valid, 0.25, 0.5, min_best_iou=0.25)[1]
    assert label.tolist() == [[1, 1, -1, 0, 0]]
    iou, matched = highest_iou(boxes, targets, valid)
    assert matched.tolist() == [[0, 0, 0, 0, 2]]
    torch.testing.assert_close(iou, torch.tensor([[0.75, 0.5, 0.25, 0.2, 0.1]]))


def test_a_target_that_overlaps_nothing_takes_every_box_as_the_peers_have_it() -> None:
    boxes = random_boxes(1, 30, seed=5)
    targets = torch.tensor([[[500.0, 500.0, 600.0, 600.0]]])
    label = match_anchors(boxes, targets, torch.ones(1, 1).bool(), 0.3, 0.7)[1]
    assert torch.equal(label[0], by_torchvision(boxes[0], targets[0], 0.3, 0.7, True)[1])
    assert label.eq(1).all()


@pytest.mark.parametrize("targets", [31, 32, 33, 500])
def test_chunking_changes_nothing(targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, objects = random_boxes(1, 400, seed=6), random_boxes(1, targets, seed=7)
    valid = torch.ones(1, targets, dtype=torch.bool)
    expected = by_torchvision(boxes[0], objects[0], 0.3, 0.7, True)
    for pieces in (1, 5, 1000):
        monkeypatch.setattr(matching, "MAX_TARGETS", pieces)
        matched, label = match_anchors(boxes, objects, valid, 0.3, 0.7)
        assert torch.equal(matched[0], expected[0])
        assert torch.equal(label[0], expected[1])


@pytest.mark.compile
def test_one_graph_whatever_is_valid() -> None:
    boxes, objects = random_boxes(40, seed=8), random_boxes(2, 6, seed=9)
    compiled = torch.compile(match_anchors, fullgraph=True, backend=FORWARD)
    for count in (0, 3, 6):
        valid = (torch.arange(6) < count).expand(2, -1)
        for ours, expected in zip(
            compiled(boxes, objects, valid, 0.3, 0.7), match_anchors(boxes, objects, valid, 0.3, 0.7), strict=True
        ):
            assert torch.equal(ours, expected)


def test_boxes_in_crowds_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10], [30, 30, 40, 40]])
    crowds = torch.tensor([[[0.0, 0, 10, 10], [30, 30, 36, 40]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    assert in_crowds(boxes, crowds, 0.55).tolist() == [[True, False, True], [False, False, False]]
    assert in_crowds(boxes.expand(2, -1, -1), crowds, 0.45).tolist() == [[True, True, True], [False, False, False]]
    assert in_crowds(boxes, torch.zeros(2, 0, 4), 0.5).tolist() == [[False] * 3] * 2
