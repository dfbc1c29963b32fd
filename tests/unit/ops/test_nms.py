"""Non-maximum suppression: against torchvision's, group by group, and a slow loop."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from rcnn.ops.nms import MANY, nms
from tests.unit.random_boxes import random_boxes


def slow_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int = 10**6
) -> list[int]:
    """Up to `most` indices kept in one image, best first, by definition."""
    iou = torchvision.ops.box_iou(boxes, boxes)
    left: list[int] = []
    for i in sorted(valid.nonzero()[:, 0].tolist(), key=lambda i: (-scores[i].item(), i)):
        if all(groups[i] != groups[j] or iou[i, j] <= iou_threshold for j in left):
            left.append(i)
        if len(left) == most:
            break
    return left


def found(index: Tensor, kept: Tensor) -> list[list[int]]:
    """The valid indices of each row; checks that they are a prefix and the rest is 0."""
    assert torch.equal(kept, kept.cummin(1)[0])
    assert (index[~kept] == 0).all()
    return [row[mask].tolist() for row, mask in zip(index, kept, strict=True)]


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_equals_a_slow_loop(iou_threshold: float) -> None:
    boxes, scores = random_boxes(3, 150, seed=0, extent=20), torch.rand(3, 150)
    groups, valid = torch.randint(-1, 3, (3, 150)), torch.rand(3, 150) > 0.2
    index, kept = nms(boxes, scores, groups, valid, iou_threshold, 150)
    expected = [slow_nms(boxes[b], scores[b], groups[b], valid[b], iou_threshold) for b in range(3)]
    assert found(index, kept) == expected
    assert iou_threshold > 0.5 or any(len(row) < mask.sum() for row, mask in zip(expected, valid, strict=True))


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.6, 0.7, 1.0])
@pytest.mark.parametrize("overlapping", [True, False])
def test_a_few_of_many_boxes_equal_a_slow_loop(iou_threshold: float, overlapping: bool) -> None:
    """The walk down the scores, over several blocks of boxes, with ties."""
    boxes = random_boxes(2, 900, seed=7, extent=3 if overlapping else 400)
    scores = torch.randint(0, 50, (2, 900)) / 50
    groups, valid = torch.randint(0, 4, (2, 900)), torch.rand(2, 900) > 0.2
    index, kept = nms(boxes, scores, groups, valid, iou_threshold, 45)
    assert MANY * 45 <= 900
    expected = [slow_nms(boxes[b], scores[b], groups[b], valid[b], iou_threshold, 45) for b in range(2)]
    assert found(index, kept) == expected


def test_ties_go_to_the_lower_index_within_and_between_groups() -> None:
    boxes, scores = random_boxes(1, 80, seed=1), torch.randint(0, 4, (1, 80)).float() / 4
    groups, valid = torch.randint(0, 3, (1, 80)), torch.ones(1, 80, dtype=torch.bool)
    assert found(*nms(boxes, scores, groups, valid, 0.4, 80)) == [
        slow_nms(boxes[0], scores[0], groups[0], valid[0], 0.4)
    ]


def test_of_the_same_box_many_times_the_first_stays() -> None:
    boxes = torch.tensor([10.0, 10.0, 20.0, 20.0]).expand(1, 500, 4)
    one_group, valid = torch.zeros(1, 500, dtype=torch.int64), torch.ones(1, 500, dtype=torch.bool)
    assert found(*nms(boxes, torch.full((1, 500), 0.5), one_group, valid, 0.5, 10)) == [[0]]
    many = torch.arange(500)[None]
    assert found(*nms(boxes, torch.full((1, 500), 0.5), many, valid, 0.5, 10)) == [list(range(10))]


def test_an_overlap_at_the_threshold_stays() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]]])  # IoU is 1/2 exactly
    groups, valid, scores = torch.zeros(1, 2).long(), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.9, 0.8]])
    assert found(*nms(boxes, scores, groups, valid, 0.5, 2)) == [[0, 1]]
    assert found(*nms(boxes, scores, groups, valid, 0.49, 2)) == [[0]]


@pytest.mark.parametrize(("number", "keep"), [(0, 5), (1, 5), (7, 0), (7, 20)])
def test_capacities_larger_and_smaller_than_what_there_is(number: int, keep: int) -> None:
    boxes, scores = random_boxes(2, number, seed=2), torch.rand(2, number)
    groups, valid = torch.zeros(2, number).long(), torch.ones(2, number, dtype=torch.bool)
    index, kept = nms(boxes, scores, groups, valid, 0.5, keep)
    assert index.shape == kept.shape == (2, keep)
    for row, b, s in zip(found(index, kept), boxes, scores, strict=True):
        assert row == torchvision.ops.nms(b, s, 0.5)[:keep].tolist()


def test_nothing_valid_and_no_images() -> None:
    boxes, groups = random_boxes(2, 9, seed=3), torch.zeros(2, 9).long()
    index, kept = nms(boxes, torch.rand(2, 9), groups, torch.zeros(2, 9, dtype=torch.bool), 0.5, 4)
    assert found(index, kept) == [[], []]
    assert nms(boxes[:0], torch.rand(0, 9), groups[:0], groups[:0].bool(), 0.5, 4)[0].shape == (0, 4)


def test_invalid_places_may_hold_anything() -> None:
    boxes, scores = random_boxes(1, 30, seed=4), torch.rand(1, 30)
    valid = torch.arange(30)[None] < 20
    spoilt_boxes = torch.where(valid[..., None], boxes, torch.nan)
    spoilt_scores = torch.where(valid, scores, torch.inf)
    groups = torch.zeros(1, 30).long()
    expected = torchvision.ops.nms(boxes[0, :20], scores[0, :20], 0.5).tolist()
    assert found(*nms(spoilt_boxes, spoilt_scores, groups, valid, 0.5, 30)) == [expected]


def test_a_hundred_thousand_boxes() -> None:
    boxes, scores = random_boxes(1, 100_000, seed=5, extent=5000), torch.rand(1, 100_000)
    groups = torch.randint(0, 80, (1, 100_000))
    index, kept = nms(boxes, scores, groups, scores > 0.3, 0.5, 1000)
    real = (scores[0] > 0.3).nonzero()[:, 0]
    expected = real[torchvision.ops.batched_nms(boxes[0, real], scores[0, real], groups[0, real], 0.5)]
    assert found(index, kept) == [expected[:1000].tolist()]


def test_opcheck() -> None:
    boxes, scores = random_boxes(2, 12, seed=6), torch.rand(2, 12)
    groups, valid = torch.randint(0, 2, (2, 12)), torch.rand(2, 12) > 0.2
    assert set(torch.library.opcheck(nms.overload, (boxes, scores, groups, valid, 0.5, 7)).values()) == {"SUCCESS"}
    assert set(
        torch.library.opcheck(nms.overload, (boxes[:, :0], scores[:, :0], groups[:, :0], valid[:, :0], 0.5, 7)).values()
    ) == {"SUCCESS"}
