"""Selection of detections: NMS within and across classes, soft-NMS and limits, against slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from rcnn.models.box_rules import HALF_OPEN
from rcnn.models.build import FeatureMaps, build_box_head
from rcnn.models.config import BoxHeadConfig, CompactConfig, DetectorConfig, LegacyConfig, SelectionConfig
from rcnn.models.heads.selection import select_detections
from rcnn.models.legacy.file_boxes import SubpixelBoxHead
from rcnn.ops.boxes import clip_boxes
from rcnn.structures import Detections
from tests.unit.random_batches import images_of
from tests.unit.random_boxes import random_boxes

SIZES = torch.tensor([[120, 140], [150, 100]])


def second_stage(seed: int, regions: int = 60, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (2, R, K, 4), probabilities (2, R, K) and validity (2, R)."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(2, regions, classes + 1, generator=generator) * 2).softmax(-1)[..., :-1]
    boxes = random_boxes(2, regions, classes, seed=seed, smallest=40)
    return boxes, scores, torch.rand(2, regions, generator=generator) > 0.1


def select(boxes: Tensor, scores: Tensor, valid: Tensor, config: SelectionConfig | None = None) -> Detections:
    """The detections in images of SIZES with a score above 0.05."""
    clipped = clip_boxes(boxes.flatten(1, 2), SIZES).view(boxes.shape)
    return select_detections(clipped, scores, valid[..., None], config or SelectionConfig(), 0.05)


def candidates(boxes: Tensor, scores: Tensor, valid: Tensor, image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped boxes, scores and labels of an image's regions and classes above 0.05."""
    region, label = ((scores[image] > 0.05) & valid[image][:, None]).nonzero(as_tuple=True)
    box = torchvision.ops.clip_boxes_to_image(boxes[image, region, label], tuple(SIZES[image].tolist()))
    return box, scores[image, region, label], label


@pytest.mark.parametrize("agnostic", [False, True])
def test_suppression_within_and_across_classes_equals_torchvisions(agnostic: bool) -> None:
    boxes, scores, valid = second_stage(0)
    config = SelectionConfig(class_agnostic_nms=agnostic, max_detections=50)
    found = select(boxes, scores, valid, config)
    for image in range(2):
        box, score, label = candidates(boxes, scores, valid, image)
        group = torch.zeros_like(label) if agnostic else label
        kept = torchvision.ops.batched_nms(box, score, group, 0.5)[:50]
        real = found.valid[image]
        torch.testing.assert_close(found.boxes[image][real], box[kept])
        assert torch.equal(found.scores[image][real], score[kept])
        assert torch.equal(found.labels[image][real], label[kept])


@pytest.mark.parametrize("nms", ["hard", "soft_linear"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_valid_hold_zeros_whatever_the_candidates_hold(nms: Any, value: float) -> None:
    """The padding repeats the first candidate, here one that is not finite."""
    boxes, scores, valid = second_stage(0)
    config = SelectionConfig(nms=nms, max_detections=boxes.shape[1] * boxes.shape[2])
    without = valid[..., None].repeat(1, 1, scores.shape[2])
    without[:, 0, 0] = False
    expected = select_detections(boxes, scores, without, config, 0.05)
    boxes[:, 0, 0], scores[:, 0, 0] = value, value
    found = select_detections(boxes, scores, valid[..., None], config, 0.05)
    assert found.valid.any(1).all()
    assert torch.equal(found.valid, expected.valid)
    for each, other in ((found.boxes, expected.boxes), (found.scores, expected.scores)):
        assert torch.equal(each, other)
        assert not each[~found.valid].any()


def test_nms_across_classes_keeps_fewer() -> None:
    boxes, scores, valid = second_stage(1)
    counts = [
        select(boxes, scores, valid, SelectionConfig(class_agnostic_nms=agnostic)).valid.sum()
        for agnostic in (False, True)
    ]
    assert counts[1] < counts[0]


@pytest.mark.parametrize("kind", ["soft_linear", "soft_gaussian"])
def test_soft_nms_lowers_scores_and_drops_only_low_scores(kind: str) -> None:
    boxes, scores, valid = second_stage(2, regions=20)
    config = SelectionConfig(nms=kind, soft_nms_threshold=0.04, max_detections=200)  # type: ignore[arg-type]
    soft = select(boxes, scores, valid, config)
    hard = select(boxes, scores, valid, SelectionConfig(max_detections=200))
    for image in range(2):
        box, score, label = candidates(boxes, scores, valid, image)
        real = soft.valid[image]
        assert hard.valid[image].sum() < real.sum() <= len(box)
        assert (soft.scores[image][real] >= 0.04).all()
        assert (soft.scores[image][real].diff() <= 0).all()
        for b, s, kind_of in zip(
            soft.boxes[image][real], soft.scores[image][real], soft.labels[image][real], strict=True
        ):
            same = (box == b).all(1) & (label == kind_of)
            assert same.sum() == 1
            assert s <= score[same]


@pytest.mark.parametrize("scale", [torch.ones(2), torch.tensor([0.5, 2.0])])
def test_boxes_without_area_in_pixels_of_the_file_are_removed_before_the_limit(scale: Tensor) -> None:
    boxes, scores, valid = second_stage(5)
    boxes[:, ::2, :, 2] = boxes[:, ::2, :, 0] + torch.rand(2, 30, 4, generator=torch.Generator().manual_seed(5)) * 3
    config = DetectorConfig(
        name="tiny",
        num_classes=4,
        backbone=CompactConfig(),
        box=BoxHeadConfig(fc_width=16, selection=SelectionConfig(max_detections=20)),
        legacy=LegacyConfig(drop_subpixel=True),
    )
    maps = FeatureMaps(rpn_strides={}, pooled_strides={"c4": 16}, channels=4)
    head = build_box_head(config, maps, HALF_OPEN)
    assert isinstance(head, SubpixelBoxHead)
    found = head.select(boxes, scores, valid, images_of(SIZES, scale))
    before = select(boxes, scores, valid, SelectionConfig(max_detections=500))
    for image, side in enumerate(scale.tolist()):
        box, score = before.boxes[image], before.scores[image]
        whole = np.round(box.numpy() / side).astype(int)
        seen = before.valid[image].numpy() & (np.prod(whole[:, 2:] - whole[:, :2], 1) > 0)
        assert 20 < seen.sum() < before.valid[image].sum()
        torch.testing.assert_close(found.scores[image], score[torch.from_numpy(seen)][:20])


def test_without_valid_regions_there_are_no_detections() -> None:
    boxes, scores, valid = second_stage(4, regions=5)
    for config in (
        SelectionConfig(),
        SelectionConfig(nms="soft_linear"),
    ):
        found = select(boxes, scores, torch.zeros_like(valid), config)
        assert found.boxes.shape == (2, 100, 4)
        assert not found.valid.any()
        assert not found.boxes.any()
