"""Anchors: against torchvision's generator, and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rcnn.ops.anchors import cell_anchors, grid_anchors, legacy_cell_anchors, whole_cells

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("sizes", [(32,), (64,), (128,), (256,), (512,), (32, 64, 128), (8, 16, 24, 33, 47, 101)])
def test_rounded_cells_equal_torchvisions(sizes: tuple[int, ...]) -> None:
    [expected] = AnchorGenerator(sizes=(sizes,), aspect_ratios=(RATIOS,)).cell_anchors
    # torchvision has the ratios outside
    expected = expected.reshape(len(RATIOS), len(sizes), 4).transpose(0, 1).reshape(-1, 4)
    torch.testing.assert_close(cell_anchors(sizes, RATIOS, rounded=True), expected, rtol=0, atol=0)


def test_grids_equal_torchvisions() -> None:
    from torchvision.models.detection.image_list import ImageList

    generator = AnchorGenerator(sizes=((32,), (64,)), aspect_ratios=(RATIOS, RATIOS))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    [expected] = generator(images, [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 8, 12)])
    ours = [
        grid_anchors(cell_anchors((32,), RATIOS, rounded=True), (16, 24), 4),
        grid_anchors(cell_anchors((64,), RATIOS, rounded=True), (8, 12), 8),
    ]
    torch.testing.assert_close(torch.cat(ours), expected, rtol=0, atol=0)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_grid_equals_a_slow_loop(offset: float) -> None:
    expected = []
    for y in range(3):
        for x in range(5):
            for size in (16.0, 40.0):
                for ratio in (0.5, 3.0):
                    width, height = math.sqrt(size * size / ratio), math.sqrt(size * size * ratio)
                    cx, cy = (x + offset) * 8, (y + offset) * 8
                    expected.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    ours = grid_anchors(cell_anchors((16, 40), (0.5, 3.0)), (3, 5), 8, offset)
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-6, atol=1e-5)


def test_no_grid_and_one_cell() -> None:
    cell = cell_anchors((32,), (1.0,))
    assert grid_anchors(cell, (0, 4), 8).shape == (0, 4)
    assert grid_anchors(cell, (1, 1), 8).tolist() == [[-16.0, -16.0, 16.0, 16.0]]


# Detectron's and MXNet FCIS's own tables: x1, y1, x2, y2 of the first and last pixel, ratios .5, 1, 2 of each size
LEGACY_C4 = {
    32: [(-15, -4, 30, 19), (-8, -8, 23, 23), (-3, -14, 18, 29)],
    64: [(-38, -16, 53, 31), (-24, -24, 39, 39), (-14, -36, 29, 51)],
    128: [(-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)],
    256: [(-176, -88, 191, 103), (-120, -120, 135, 135), (-80, -168, 95, 183)],
    512: [(-360, -184, 375, 199), (-248, -248, 263, 263), (-168, -344, 183, 359)],
}
LEGACY_FPN = {
    4: [(-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)],
    8: [(-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)],
    16: [(-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)],
    32: [(-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)],
    64: [(-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)],
}


def test_legacy_anchors_equal_the_published_tables() -> None:
    last_pixel = torch.tensor([0.0, 0, 1, 1])
    table = torch.tensor([box for boxes in LEGACY_C4.values() for box in boxes]).float()
    assert torch.equal(legacy_cell_anchors(tuple(LEGACY_C4), (0.5, 1, 2), 16), table + last_pixel)
    for stride, boxes in LEGACY_FPN.items():
        found = legacy_cell_anchors((8.0 * stride,), (0.5, 1, 2), stride)
        assert torch.equal(found, torch.tensor(boxes).float() + last_pixel)


def test_whole_cells_end_inside_the_image() -> None:
    sizes = torch.tensor([[33, 64], [15, 100]])
    found = whole_cells((3, 5), (16, 16), sizes, 2 * 15)
    for image, (height, width) in enumerate(sizes.tolist()):
        expected = [
            (y + 1) * 16 <= height and (x + 1) * 16 <= width for y in range(3) for x in range(5) for _ in (0, 1)
        ]
        assert found[image].tolist() == expected
    assert found[0].sum() == 2 * 2 * 4
    assert not found[1].any()
