"""The authors' FCIS with inclusive boxes: candidates to detections, by a loop with their formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rcnn.models import build_detector
from rcnn.models.config import FCISConfig, LegacyConfig
from rcnn.models.heads.fcis import FCISHead
from rcnn.structures import ImageBatch
from tests.unit.models.test_fcis_head import tiny
from tests.unit.ops.test_mask_voting import slow_resize
from tests.unit.random_batches import random_images

HEIGHT, WIDTH, SCALE = 60, 83, 1.6


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two inclusive boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def slow_detections(
    boxes: np.ndarray, scores: np.ndarray, masks: np.ndarray, min_size: float
) -> list[tuple[int, float, tuple[int, ...], np.ndarray]]:
    """Label, score, box and mask of each detection as in msracver/FCIS, best first."""
    large = (boxes[:, 2] - boxes[:, 0] + 1 >= min_size) & (boxes[:, 3] - boxes[:, 1] + 1 >= min_size)
    boxes, scores, masks = boxes[large] / SCALE, scores[large], masks[large]
    boxes = np.clip(boxes, 0, [WIDTH - 1, HEIGHT - 1, WIDTH - 1, HEIGHT - 1])
    kept: list[tuple[float, int, int]] = []
    for label in range(scores.shape[1]):
        left: list[int] = []
        for place in np.argsort(-scores[:, label], kind="stable"):
            if all(iou(boxes[place], boxes[other]) <= 0.3 for other in left):
                left.append(int(place))
        kept += [(float(scores[place, label]), label, int(place)) for place in left if scores[place, label] >= 1e-3]
    found: list[tuple[int, float, tuple[int, ...], np.ndarray]] = []
    for score, label, place in sorted(kept, key=lambda one: -one[0])[:100]:
        voters = [other for other in range(len(boxes)) if iou(boxes[place], boxes[other]) >= 0.5]
        total = scores[voters, label].sum()
        canvas = np.zeros((HEIGHT, WIDTH))
        for voter in voters:
            x1, y1, x2, y2 = (round(float(value)) for value in boxes[voter])
            drawn = slow_resize(masks[voter], y2 - y1 + 1, x2 - x1 + 1) >= 0.4
            canvas[y1 : y2 + 1, x1 : x2 + 1] += drawn * scores[voter, label] / total
        rows, columns = np.nonzero(canvas >= 0.4)
        if len(rows) == 0:
            continue
        box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
        inside = canvas[box[1] : box[3] + 1, box[0] : box[2] + 1]
        found.append((label, score, box, slow_resize(inside, masks.shape[1], masks.shape[2])))
    return found


def test_candidates_to_detections() -> None:
    generator = torch.Generator().manual_seed(0)
    head = build_detector(
        replace(tiny(FCISConfig(width=32, min_size=12.0)), legacy=LegacyConfig(boxes="inclusive"))
    ).box_head
    assert isinstance(head, FCISHead)
    count, size = 30, (round(HEIGHT * SCALE), round(WIDTH * SCALE))
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 50.0])
    side = torch.rand(count, 2, generator=generator) * 45 + 8
    limit = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    raw = torch.cat([corner, torch.minimum(corner + side, limit)], 1)  # as the authors write boxes
    scores = (torch.randn(count, 4, generator=generator) * 2).softmax(1)[:, :3]
    masks = torch.rand(count, 21, 21, generator=generator)
    images = ImageBatch(
        pixels=random_images([size]).pixels,
        sizes=torch.tensor([size]),
        scales=torch.tensor([SCALE]),
        originals=torch.tensor([[HEIGHT, WIDTH]]),
    )
    ours = raw + torch.tensor([0.0, 0, 1, 1])  # as boxes are here, half open
    valid = ((ours[:, 2:] - ours[:, :2]) >= 12).all(1)
    assert 0 < int((~valid).sum()) < count
    found = head.detections(ours[None], scores[None], masks[None], valid[None], images)
    expected = slow_detections(raw.double().numpy(), scores.double().numpy(), masks.double().numpy(), 12)
    assert len(expected) > 20
    assert int(found.valid.sum()) == len(expected)
    assert found.masks is not None
    for place, (label, score, box, mask) in enumerate(expected):
        assert int(found.labels[0, place]) == label
        assert abs(float(found.scores[0, place]) - score) < 1e-6
        file = found.boxes[0, place] / SCALE - torch.tensor([0.0, 0, 1, 1])
        np.testing.assert_allclose(file.numpy(), box, atol=1e-3)
        np.testing.assert_allclose(found.masks[0, place].numpy(), mask, atol=1e-4)


def test_it_trains_and_predicts_with_the_authors_settings() -> None:
    """Legacy anchors, whole cells and inclusive boxes combined; boxes are whole pixels of the file."""
    config = tiny(FCISConfig(width=32))
    rpn = replace(
        config.rpn,
        anchors=replace(config.rpn.anchors, sizes=((32.0, 64.0),)),
        legacy=replace(config.rpn.legacy, anchors="detectron", objectness="softmax", whole_cells=True, straddle=0.0),
    )
    detector = build_detector(replace(config, rpn=rpn, legacy=LegacyConfig(boxes="inclusive"))).eval()
    images = replace(random_images([(120, 112)], (128, 112)), scales=torch.tensor([1.6]))
    found = detector.predict(images)
    assert found.valid.any()
    boxes = found.boxes[found.valid] / 1.6
    torch.testing.assert_close(boxes, boxes.round(), atol=1e-3, rtol=0)
    assert (boxes[:, 2] <= 70.01).all()
    assert (boxes[:, 3] <= 75.01).all()
