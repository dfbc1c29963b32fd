"""Areas, IoU, clipping: against torchvision, and by hand where it has no equivalent."""

from __future__ import annotations

import pytest
import torch
import torchvision
from pycocotools import mask as mask_utils

from rcnn.ops.boxes import box_area, box_ioa, box_iou, clip_boxes, inside_image, move_ends, sides_longer_than
from tests.unit.random_boxes import random_boxes


@pytest.mark.parametrize(("n", "m"), [(50, 70), (0, 3), (1, 0), (1, 1), (0, 0)])
def test_overlaps_equal_torchvisions(n: int, m: int) -> None:
    a, b = random_boxes(n, seed=0), random_boxes(m, seed=1)
    iou = box_iou(a, b)
    assert n * m < 100 or (iou > 0).any()
    torch.testing.assert_close(iou, torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(box_area(a), torchvision.ops.box_area(a))


def test_iou_of_a_batch_equals_iou_of_its_images() -> None:
    a, b = random_boxes(3, 20, seed=0), random_boxes(3, 7, seed=1)
    together = box_iou(a, b)
    for image in range(3):
        torch.testing.assert_close(together[image], torchvision.ops.box_iou(a[image], b[image]))
    torch.testing.assert_close(box_iou(a, b[0]), torch.stack([torchvision.ops.box_iou(x, b[0]) for x in a]))


def test_a_box_without_area_has_iou_zero() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    line = torch.tensor([[0.0, 5.0, 10.0, 5.0]])
    square = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    for other in (point, line, square):
        assert box_iou(point, other).item() == 0
        assert box_iou(other, line).item() == 0


def test_iou_of_a_case_computed_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    b = torch.tensor([[2.0, 2.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    assert box_iou(a, b).tolist() == [[4 / 16, 0.0, 1.0]]  # a common edge is no overlap


def test_iou_of_half_precision_boxes_is_computed_in_float32() -> None:
    a = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]])
    b = torch.tensor([[0.0, 0.0, 1000.0, 996.0]])
    assert box_iou(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(box_iou(a.bfloat16(), b.bfloat16()), torch.tensor([[0.996]]))


def test_clipping_equals_torchvisions_image_by_image() -> None:
    boxes = random_boxes(2, 60, seed=2, extent=200) - 60
    sizes = torch.tensor([[50, 120], [90, 30]])
    clipped = clip_boxes(boxes, sizes)
    assert not torch.equal(clipped, boxes)
    for image, size in enumerate(sizes.tolist()):
        expected = torchvision.ops.clip_boxes_to_image(boxes[image], (size[0], size[1]))
        torch.testing.assert_close(clipped[image], expected, rtol=0, atol=0)
    assert clip_boxes(boxes[:, :0], sizes).shape == (2, 0, 4)


def test_a_box_is_empty_unless_both_sides_are_longer_than_the_least() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 4.0], [3.0, 1.0, 1.0, 4.0], [0.0, 0.0, 0.1, 0.1]]
    )
    assert sides_longer_than(boxes).tolist() == [True, True, False, False, True]
    assert sides_longer_than(boxes, 2.0).tolist() == [False] * 5  # as long is not longer
    assert sides_longer_than(boxes, 1.5).tolist() == [True, True, False, False, False]
    assert sides_longer_than(boxes, -1.0).tolist() == [True, True, True, False, True]
    assert sides_longer_than(boxes[:0]).shape == (0,)


@pytest.mark.parametrize("straddle", [0.0, 4.0])
def test_inside_image_equals_a_loop(straddle: float) -> None:
    boxes = random_boxes(60, seed=5) - 8
    sizes = torch.tensor([[60, 80], [100, 100]])
    found = inside_image(boxes, sizes, straddle)
    for image, (height, width) in enumerate(sizes.tolist()):
        for box, inside in zip(boxes.tolist(), found[image].tolist(), strict=True):
            x1, y1, x2, y2 = box
            expected = x1 >= -straddle and y1 >= -straddle and x2 <= width + straddle and y2 <= height + straddle
            assert inside == expected
    assert found.any()
    assert not found.all()


def test_box_ioa_equals_pycocotools_overlap_with_crowds() -> None:
    a, b = random_boxes(30, seed=6), random_boxes(7, seed=7)
    a[0] = torch.tensor([5.0, 5, 5, 9])  # no area
    sides = [torch.cat([c[:, :2], c[:, 2:] - c[:, :2]], 1).double().numpy() for c in (a, b)]
    expected = mask_utils.iou(sides[0], sides[1], [1] * len(b))  # of a crowd the union is the detection's own area
    found = box_ioa(a, b)
    assert found[0].eq(0).all()
    torch.testing.assert_close(found[1:], torch.from_numpy(expected).float()[1:], atol=1e-5, rtol=1e-5)


def test_box_ends_move_by_one_number_or_one_per_image() -> None:
    boxes = torch.tensor([[[[1.0, 2, 3, 4]]], [[[5, 6, 7, 8]]]])
    assert move_ends(boxes, 1.0).flatten(1).tolist() == [[1, 2, 4, 5], [5, 6, 8, 9]]
    assert move_ends(boxes, torch.tensor([1.0, -2.0])).flatten(1).tolist() == [[1, 2, 4, 5], [5, 6, 5, 6]]
