"""Mask voting against a loop over detections and candidates, the fixtures of both Chainer ports, and opcheck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import build_detector, model_config
from rcnn.ops.mask_voting import average_masks, vote_masks, vote_weights
from rcnn.ops.nms import nms
from tests.unit.random_batches import random_images


def slow_resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's bilinear resize, pixel by pixel."""
    out = np.zeros((height, width), dtype=np.float64)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * values.shape[0] / height - 0.5, 0), values.shape[0] - 1)
            x = min(max((j + 0.5) * values.shape[1] / width - 0.5, 0), values.shape[1] - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, values.shape[0] - 1), min(b + 1, values.shape[1] - 1)
            upper = values[a, b] * (1 - (x - b)) + values[a, d] * (x - b)
            lower = values[c, b] * (1 - (x - b)) + values[c, d] * (x - b)
            out[i, j] = upper * (1 - (y - a)) + lower * (y - a)
    return out


def slow_vote(
    boxes: np.ndarray, masks: np.ndarray, weights: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """One detection's box and mask, on a canvas of the whole image; None where nothing reaches 0.4."""
    canvas = np.zeros(size)
    for box, mask, weight in zip(boxes, masks, weights, strict=True):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        if weight > 0 and x2 > x1 and y2 > y1:
            canvas[y1:y2, x1:x2] += weight * (slow_resize(mask, y2 - y1, x2 - x1) >= 0.4)
    rows, columns = np.nonzero(canvas >= 0.4)
    if len(rows) == 0:
        return None
    y1, y2, x1, x2 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    box = np.array([x1, y1, x2, y2])
    return box, slow_resize(canvas[y1:y2, x1:x2], masks.shape[1], masks.shape[2])


def candidates(number: int, seed: int = 0, side: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (1, N, 4) on an image of 150 x 200, soft masks (1, N, 7, 7), probabilities (1, N, 3) of classes."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, number, 2, generator=generator) * torch.tensor([20.0, 12.0])
    span = torch.rand(1, number, 2, generator=generator) * torch.tensor([170.0, 130.0]) + 1
    boxes = torch.cat([corner, corner + span], -1)
    boxes = torch.minimum(boxes, torch.tensor([199.0, 149.0, 199.0, 149.0]))
    masks = torch.rand(1, number, side, side, generator=generator)
    return boxes, masks, (torch.randn(1, number, 3, generator=generator) * 2).softmax(-1)


def test_equals_a_canvas_for_each_detection() -> None:
    boxes, masks, _ = candidates(12)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(1, 6, 12, generator=generator) * (torch.rand(1, 6, 12, generator=generator) < 0.3)
    weights[0, 4], weights[0, 5] = 0, 0.02  # without a vote; with too few
    weights[0, :4] /= weights[0, :4].sum(-1, keepdim=True)
    fitted, voted, found = vote_masks(boxes, masks, weights, torch.tensor([[150, 200]]), 0.4, True)
    assert found[0].tolist() == [True] * 4 + [False] * 2
    for place in range(4):
        expected = slow_vote(boxes[0].numpy(), masks[0].double().numpy(), weights[0, place].numpy(), (150, 200))
        assert expected is not None
        np.testing.assert_array_equal(fitted[0, place].numpy(), expected[0])
        np.testing.assert_allclose(voted[0, place].numpy(), expected[1], atol=1e-5)
    assert (fitted[0, 4:] == 0).all()
    assert (voted[0, 4:] == 0).all()


def test_weights_are_of_those_that_overlap() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 9]]])
    scores = torch.tensor([[[0.6, 0.1], [0.2, 0.7], [0.9, 0.9], [0.5, 0.5]]])
    valid = torch.tensor([[True, True, True, False]])
    kept, labels = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 0]])
    weights = vote_weights(boxes, scores, valid, kept, labels, torch.tensor([[True, True, False]]), 0.5)
    expected = [[0.75, 0.25, 0, 0], [0.125, 0.875, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(weights, torch.tensor([expected]))


def test_no_candidate_and_no_detection() -> None:
    size = torch.tensor([[10, 10]])
    for number, count in ((0, 3), (3, 0)):
        boxes, masks, _ = candidates(number)
        weights = torch.zeros(1, count, number)
        fitted, voted, found = vote_masks(boxes, masks, weights, size, 0.4, True)
        assert fitted.shape == (1, count, 4)
        assert voted.shape == (1, count, 7, 7)
        assert not found.any()


def test_images_do_not_see_each_other() -> None:
    (boxes, masks, _), (others, other_masks, _) = candidates(8), candidates(8, seed=3)
    weights = torch.full((1, 2, 8), 0.125)
    sizes = torch.tensor([[150, 200]])
    both = vote_masks(
        torch.cat([boxes, others]), torch.cat([masks, other_masks]), weights.expand(2, -1, -1), sizes.expand(2, -1),
        0.4, True,
    )  # fmt: skip
    for image, alone in enumerate(
        (vote_masks(boxes, masks, weights, sizes, 0.4, True),
         vote_masks(others, other_masks, weights, sizes, 0.4, True))
    ):  # fmt: skip
        for ours, expected in zip(both, alone, strict=True):
            torch.testing.assert_close(ours[image], expected[0], atol=0, rtol=0)


def test_opcheck() -> None:
    boxes, masks, _ = candidates(6)
    arguments = (boxes, masks, torch.rand(1, 4, 6), torch.tensor([[150, 200]]), 0.4, True)
    assert set(torch.library.opcheck(vote_masks.overload, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("peer", "ending", "at_least", "clip", "score", "limit"),
    [
        ("chainercv", "", False, True, 1e-3, 100),
        ("chainercv", "_limit12", False, True, 1e-3, 12),
        ("chainer_fcis", "", True, False, 1e-3, 100),
        ("chainer_fcis", "_thresh0.3", True, False, 0.3, 100),
    ],
)
def test_golden(shared: Path, peer: str, ending: str, at_least: bool, clip: bool, score: float, limit: int) -> None:
    stored = np.load(shared / "golden/chainer/ops" / f"mask_voting_{peer}.npz")
    boxes = torch.from_numpy(stored["in_bbox"][None, :, [1, 0, 3, 2]].copy())
    scores = torch.from_numpy(stored["in_cls_prob"][None, :, 1:])
    masks = torch.from_numpy(stored["in_seg_prob"])[None]
    number, classes = scores.shape[1:]
    every = boxes.repeat_interleave(classes, 1)
    labels = torch.arange(classes).repeat(1, number)
    kept, valid = nms(every, scores.flatten(1), labels, scores.flatten(1) >= score, 0.3, limit)
    labels = labels.gather(1, kept)
    weights = vote_weights(boxes, scores, torch.ones(1, number, dtype=torch.bool), kept // classes, labels, valid, 0.5)
    fitted, voted, found = vote_masks(boxes, masks, weights, torch.tensor([[90, 120]]), 0.4, at_least)
    voted = voted.clamp(0, 1) if clip else voted
    own_scores = scores.flatten(1).gather(1, kept)[0, found[0]].numpy()
    own_labels = labels[0, found[0]].numpy()
    order = np.lexsort((-own_scores, own_labels))  # theirs: class after class
    wanted_labels = stored[f"label{ending}"] - (peer == "chainer_fcis")
    np.testing.assert_array_equal(own_labels[order], wanted_labels)
    np.testing.assert_allclose(own_scores[order], stored[f"score{ending}"], atol=1e-6)
    np.testing.assert_array_equal(fitted[0, found[0]].numpy()[order][:, [1, 0, 3, 2]], stored[f"bbox{ending}"])
    np.testing.assert_allclose(voted[0, found[0]].numpy()[order], stored[f"seg_prob{ending}"], atol=1e-5)


def test_average_reads_the_other_masks_in_the_detections_own_frame() -> None:
    boxes = torch.tensor([[[10.0, 10, 50, 40], [14, 8, 54, 44], [12, 12, 48, 41], [11, 11, 50, 40], [0, 0, 0, 0]]])
    labels = torch.tensor([[1, 1, 0, 1, 1]])
    scores = torch.tensor([[0.9, 0.6, 0.8, 0.3, 0.0]])
    valid = torch.tensor([[True, True, True, True, False]])
    masks = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    averaged = average_masks(masks, boxes, scores, labels, valid, 0.5)
    torch.testing.assert_close(averaged[0, 2], masks[0, 2])  # alone in its class
    for place in (0, 1, 3):
        left, top, right, bottom = boxes[0, place].tolist()
        for i in range(8):
            for j in range(8):
                y, x = top + (i + 0.5) / 8 * (bottom - top), left + (j + 0.5) / 8 * (right - left)
                total = sum(
                    float(scores[0, voter]) * read_at(masks[0, voter], boxes[0, voter].tolist(), y, x)
                    for voter in (0, 1, 3)
                )
                assert abs(float(averaged[0, place, i, j]) - total / 1.8) < 1e-5


def read_at(mask: Tensor, box: list[float], y: float, x: float) -> float:
    """The value of a mask stretched over its box at a point of the image; 0 outside."""
    if not (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
        return 0.0
    row = min(max((y - box[1]) / (box[3] - box[1]) * 8 - 0.5, 0), 7)
    column = min(max((x - box[0]) / (box[2] - box[0]) * 8 - 0.5, 0), 7)
    a, b = int(row), int(column)
    c, d = min(a + 1, 7), min(b + 1, 7)
    upper = mask[a, b] * (1 - (column - b)) + mask[a, d] * (column - b)
    lower = mask[c, b] * (1 - (column - b)) + mask[c, d] * (column - b)
    return float(upper * (1 - (row - a)) + lower * (row - a))


def test_mask_rcnn_with_mask_voting() -> None:
    """In a detector: with weak NMS detections overlap, and voting makes their masks similar."""
    config = model_config("mask_rcnn_compact")
    assert config.mask is not None
    box = replace(
        config.box, score_threshold=0.0, selection=replace(config.box.selection, nms_iou=0.95, max_detections=60)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = build_detector(replace(config, box=box)).eval()
        assert plain.mask_head is not None
        for layer in plain.mask_head.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.normal_(layer.weight, std=0.3)
    voting = build_detector(replace(config, box=box, mask=replace(config.mask, vote_iou=0.3))).eval()
    voting.load_state_dict(plain.state_dict())
    images = random_images([(128, 128)])
    before, after = plain.predict(images), voting.predict(images)
    assert before.masks is not None
    assert after.masks is not None
    expected = average_masks(before.masks, before.boxes, before.scores, before.labels, before.valid, 0.3)
    torch.testing.assert_close(after.masks, expected)
    assert (after.masks - before.masks).abs().max() > 0.01
