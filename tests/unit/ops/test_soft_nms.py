"""Soft-NMS against a slow loop from the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rcnn.ops.nms import nms
from rcnn.ops.soft_nms import soft_nms
from tests.unit.random_boxes import random_boxes


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height) if width * height > 0 else 0.0


def slow_soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, sigma: float, least: float
) -> list[tuple[int, float]]:
    """(index, score) of one image, best first: figure 2 of Bodla et al. 2017, per group."""
    found: list[tuple[int, float]] = []
    for group in set(groups[valid].tolist()):
        left = {i: scores[i].item() for i in range(len(boxes)) if valid[i] and groups[i] == group}
        while left := {i: s for i, s in left.items() if s >= least}:
            best = min(left, key=lambda i: (-left[i], i))
            found.append((best, left.pop(best)))
            for i in left:
                iou = slow_iou(boxes[best].tolist(), boxes[i].tolist())
                left[i] *= math.exp(-(iou**2) / sigma) if sigma > 0 else (1 - iou if iou > threshold else 1)
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize(("threshold", "sigma"), [(0.3, 0.0), (0.5, 0.0), (0.3, 0.5), (0.3, 0.1)])
@pytest.mark.parametrize("least", [0.001, 0.2])
def test_equals_a_slow_loop(threshold: float, sigma: float, least: float) -> None:
    boxes = random_boxes(3, 60, seed=0, extent=20, smallest=8)
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(3, 60, generator=generator)
    groups = torch.randint(-1, 3, (3, 60), generator=generator)
    valid = torch.rand(3, 60, generator=generator) > 0.2
    index, reduced, kept = soft_nms(boxes, scores, groups, valid, threshold, sigma, least, 60)
    assert torch.equal(kept, kept.cummin(1)[0])
    assert not index[~kept].any()
    assert not reduced[~kept].any()
    changed = 0
    for image in range(3):
        row = kept[image]
        expected = slow_soft_nms(boxes[image], scores[image], groups[image], valid[image], threshold, sigma, least)
        assert index[image][row].tolist() == [i for i, _ in expected]
        torch.testing.assert_close(reduced[image][row], torch.tensor([s for _, s in expected]))
        changed += int((reduced[image][row] < scores[image][index[image][row]]).sum())
    assert changed >= 5


def test_a_threshold_of_one_leaves_all_scores_as_they_are() -> None:
    boxes, scores = random_boxes(1, 40, seed=2, extent=20), torch.rand(1, 40)
    groups, valid = torch.zeros(1, 40).long(), torch.ones(1, 40, dtype=torch.bool)
    index, reduced, kept = soft_nms(boxes, scores, groups, valid, 1.0, 0.0, 0.0, 40)
    assert kept.all()
    assert torch.equal(index[0], scores[0].sort(descending=True, stable=True)[1])
    assert torch.equal(reduced, scores.gather(1, index))


def test_soft_nms_ranks_the_survivors_of_hard_nms_first() -> None:
    one = torch.tensor([10.0, 10.0, 20.0, 20.0])
    boxes = torch.stack([one, one, one + 30, one + 30])[None]  # two places, each twice
    scores, groups = torch.tensor([[0.9, 0.8, 0.5, 0.6]]), torch.zeros(1, 4).long()
    valid = torch.ones(1, 4, dtype=torch.bool)
    index, reduced, kept = soft_nms(boxes, scores, groups, valid, 0.5, 0.0, 0.001, 4)
    assert index[0, :2].tolist() == nms(boxes, scores, groups, valid, 0.5, 4)[0][0, :2].tolist() == [0, 3]
    assert kept[0].tolist() == [True, True, False, False]  # the doubles' scores are 0
    assert reduced[0].tolist() == pytest.approx([0.9, 0.6, 0, 0])


def test_capacity_ties_and_no_boxes() -> None:
    boxes = random_boxes(2, 30, seed=3, extent=500)
    scores, groups = torch.full((2, 30), 0.5), torch.arange(30).expand(2, 30)
    valid = torch.ones(2, 30, dtype=torch.bool)
    index, _, kept = soft_nms(boxes, scores, groups, valid, 0.5, 0.5, 0.0, 7)
    assert index.tolist() == [list(range(7))] * 2
    assert kept.all()
    for none in (torch.zeros_like(valid), valid[:, :0]):
        number = none.shape[1]
        index, reduced, kept = soft_nms(
            boxes[:, :number], scores[:, :number], groups[:, :number], none, 0.5, 0.5, 0.0, 7
        )
        assert not kept.any()
        assert not reduced.any()
    assert soft_nms(boxes[:0], scores[:0], groups[:0], valid[:0], 0.5, 0.5, 0.0, 7)[0].shape == (0, 7)


def test_opcheck() -> None:
    boxes, scores = random_boxes(2, 12, seed=6), torch.rand(2, 12)
    groups, valid = torch.randint(0, 2, (2, 12)), torch.rand(2, 12) > 0.2
    for sigma in (0.0, 0.5):
        arguments = (boxes, scores, groups, valid, 0.5, sigma, 0.001, 7)
        assert set(torch.library.opcheck(soft_nms.overload, arguments).values()) == {"SUCCESS"}
