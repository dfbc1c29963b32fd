"""Anchors: against torchvision's generator, and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rcnn.ops.anchors import cell_anchors, grid_anchors

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("sizes", [(32,), (64,), (128,), (256,), (512,), (32, 64, 128), (8, 16, 24, 33, 47, 101)])
def test_rounded_cells_are_torchvisions(sizes: tuple[int, ...]) -> None:
    [wanted] = AnchorGenerator(sizes=(sizes,), aspect_ratios=(RATIOS,)).cell_anchors
    # torchvision has the ratios outside
    wanted = wanted.reshape(len(RATIOS), len(sizes), 4).transpose(0, 1).reshape(-1, 4)
    torch.testing.assert_close(cell_anchors(sizes, RATIOS, rounded=True), wanted, rtol=0, atol=0)


def test_grids_are_torchvisions() -> None:
    from torchvision.models.detection.image_list import ImageList

    generator = AnchorGenerator(sizes=((32,), (64,)), aspect_ratios=(RATIOS, RATIOS))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    [wanted] = generator(images, [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 8, 12)])
    ours = [
        grid_anchors(cell_anchors((32,), RATIOS, rounded=True), (16, 24), 4),
        grid_anchors(cell_anchors((64,), RATIOS, rounded=True), (8, 12), 8),
    ]
    torch.testing.assert_close(torch.cat(ours), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_grid_equals_a_slow_loop(offset: float) -> None:
    wanted = []
    for y in range(3):
        for x in range(5):
            for size in (16.0, 40.0):
                for ratio in (0.5, 3.0):
                    width, height = math.sqrt(size * size / ratio), math.sqrt(size * size * ratio)
                    cx, cy = (x + offset) * 8, (y + offset) * 8
                    wanted.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    ours = grid_anchors(cell_anchors((16, 40), (0.5, 3.0)), (3, 5), 8, offset)
    torch.testing.assert_close(ours, torch.tensor(wanted), rtol=1e-6, atol=1e-5)


def test_no_grid_and_one_cell() -> None:
    cell = cell_anchors((32,), (1.0,))
    assert grid_anchors(cell, (0, 4), 8).shape == (0, 4)
    assert grid_anchors(cell, (1, 1), 8).tolist() == [[-16.0, -16.0, 16.0, 16.0]]
