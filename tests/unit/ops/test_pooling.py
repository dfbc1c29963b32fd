"""RoI pooling and crops from before RoIAlign, against torchvision and slow loops over regions and cells."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torchvision
from torch import Tensor

from rcnn.ops.crop_resize import crop_resize
from rcnn.ops.roi_pool import roi_pool

Kind = Literal["affine", "crop_resize"]

SCALES = [1 / 4, 1 / 8]


def pyramid(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, *size, generator=generator, dtype=dtype) for size in ((16, 20), (8, 10))]


def regions(seed: int = 1, count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (2, count, 4) in images of 64 x 80, some partly outside; levels; valid."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(2, count, 2, generator=generator) * torch.tensor([70.0, 55.0]) - 4
    boxes = torch.cat([first, first + torch.rand(2, count, 2, generator=generator) * 40], -1)
    boxes[0, 0] = torch.tensor([8.0, 8, 8, 8])  # a point
    boxes[0, 1] = torch.tensor([0.0, 0, 80, 64])  # the whole image
    levels = torch.randint(0, 2, (2, count), generator=generator)
    return boxes, levels, torch.rand(2, count, generator=generator) > 0.2


def as_torchvision(boxes: Tensor) -> Tensor:
    image = torch.arange(2.0)[:, None, None].expand(2, boxes.shape[1], 1)
    return torch.cat([image, boxes], -1).flatten(0, 1)


@pytest.mark.parametrize("size", [1, 7])
def test_roi_pool_and_its_gradient_equal_torchvision(size: int) -> None:
    maps, theirs = pyramid(), pyramid()
    boxes, levels, valid = regions()
    for value in (*maps, *theirs):
        value.requires_grad_()
    pooled, _ = roi_pool(maps, boxes, levels, valid, SCALES, size)
    fine, coarse = (
        torchvision.ops.roi_pool(m, as_torchvision(boxes), size, s) for m, s in zip(theirs, SCALES, strict=True)
    )
    is_fine, is_valid = (mask.flatten()[:, None, None, None] for mask in (levels == 0, valid))
    expected = torch.where(is_fine, fine, coarse) * is_valid
    assert torch.equal(pooled.flatten(0, 1), expected)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (pooled.flatten(0, 1) * weight).sum().backward()
    (expected * weight).sum().backward()
    for ours, other in zip(maps, theirs, strict=True):
        assert ours.grad is not None
        assert ours.grad.abs().sum() > 0
        torch.testing.assert_close(ours.grad, other.grad)


def test_roi_pool_of_all_regions_from_every_level_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, levels, valid = regions()
    expected = roi_pool(pyramid(), boxes, levels, valid, SCALES, 7)

    def all_rows(own: Tensor) -> Tensor:
        return torch.arange(len(own))  # as on an accelerator

    monkeypatch.setattr("rcnn.ops.roi_pool._rows", all_rows)
    found = roi_pool(pyramid(), boxes, levels, valid, SCALES, 7)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_roi_pool_takes_the_largest_of_whole_cells_and_the_last_one_belongs_to_it() -> None:
    values = torch.arange(36.0).view(1, 1, 6, 6)
    box = torch.tensor([[[8.0, 8, 24, 16]]])  # cells 2..6 by 2..4 at a stride of 4; the map ends at 5
    pooled, place = roi_pool([values], box, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1).bool(), [0.25], 1)
    assert pooled.item() == 4 * 6 + 5
    assert place.item() == 29


def test_roi_pool_of_float64_is_computed_in_float64() -> None:
    boxes, levels, valid = regions()
    maps = [value.requires_grad_() for value in pyramid(torch.float64)]
    theirs = [value.detach().clone().requires_grad_() for value in maps]
    pooled, _ = roi_pool(maps, boxes, levels, valid, SCALES, 2)
    fine, coarse = (
        torchvision.ops.roi_pool(m, as_torchvision(boxes).double(), 2, s) for m, s in zip(theirs, SCALES, strict=True)
    )
    expected = torch.where((levels == 0).flatten()[:, None, None, None], fine, coarse)
    expected = expected * valid.flatten()[:, None, None, None]
    assert torch.equal(pooled.flatten(0, 1), expected)
    share = torch.rand_like(expected)
    (pooled.flatten(0, 1) * share).sum().backward()
    (expected * share).sum().backward()
    for mine, their in zip(maps, theirs, strict=True):
        torch.testing.assert_close(mine.grad, their.grad, atol=1e-15, rtol=1e-15)


def test_opcheck_of_roi_pool() -> None:
    boxes, levels, valid = regions(count=3)
    maps = [value.requires_grad_() for value in pyramid()]
    answers = torch.library.opcheck(torch.ops.rcnn.roi_pool, (maps, boxes, levels, valid, SCALES, 2))
    assert answers
    assert set(answers.values()) == {"SUCCESS"}


def bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """The value (C,) between the cells of a map (C, H, W), which is zero outside."""
    value = plane.new_zeros(plane.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                value = value + plane[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def slowly(maps: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, size: int, kind: str) -> Tensor:
    """A loop over samples."""
    out = maps[0].new_zeros(*boxes.shape[:2], maps[0].shape[1], size, size)
    for image in range(boxes.shape[0]):
        for region in range(boxes.shape[1]):
            if not valid[image, region]:
                continue
            level = int(levels[image, region])
            plane = maps[level][image]
            x1, y1, x2, y2 = (boxes[image, region].double() * SCALES[level]).tolist()
            if kind == "crop_resize":
                x1, y1 = round(x1), round(y1)
                x2, y2 = max(round(x2), x1 + 1), max(round(y2), y1 + 1)
                crop = plane[:, max(y1, 0) : y2, max(x1, 0) : x2]
                y1, x1, y2, x2 = 0, 0, crop.shape[1] - 1, crop.shape[2] - 1
                plane = crop
            for row in range(size):
                for column in range(size):
                    y = y1 + (y2 - y1) * row / (size - 1)
                    x = x1 + (x2 - x1) * column / (size - 1)
                    out[image, region, :, row, column] = bilinear(plane, y, x)
    return out


@pytest.mark.parametrize("kind", ["affine", "crop_resize"])
def test_crops_equal_a_loop_over_samples(kind: Kind) -> None:
    boxes, levels, valid = regions()
    if kind == "crop_resize":  # of boxes in the image, as it was used; a cut outside the map would have no cells
        boxes = boxes.clamp(min=0).minimum(torch.tensor([79.0, 63, 80, 64]))
    found = crop_resize(pyramid(), boxes, levels, valid, SCALES, 5, kind)
    expected = slowly(pyramid(), boxes, levels, valid, 5, kind)
    assert expected.abs().amax((2, 3, 4))[valid].gt(0).float().mean() > 0.8
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_affine_equals_the_affine_grid_of_mask_faster_rcnn() -> None:
    [values, _] = pyramid()
    boxes, _, _ = regions()
    height, width = values.shape[2:]
    for image in range(2):
        x1, y1, x2, y2 = (boxes[image] / 4).unbind(-1)
        zero = torch.zeros_like(x1)
        theta = torch.stack(
            [
                torch.stack([(x2 - x1) / (width - 1), zero, (x1 + x2 - width + 1) / (width - 1)], -1),
                torch.stack([zero, (y2 - y1) / (height - 1), (y1 + y2 - height + 1) / (height - 1)], -1),
            ],
            1,
        )
        grid = torch.nn.functional.affine_grid(theta, [len(x1), 3, 7, 7], align_corners=True)
        expanded = values[image].expand(len(x1), -1, -1, -1)
        expected = torch.nn.functional.grid_sample(expanded, grid, align_corners=True)
        one = slice(image, image + 1)
        zeros, all_of_them = torch.zeros(1, len(x1), dtype=torch.int64), torch.ones(1, len(x1), dtype=torch.bool)
        found = crop_resize([values[one]], boxes[one], zeros, all_of_them, [0.25], 7, "affine")
        torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["affine", "crop_resize"])
def test_gradients_of_crops(kind: Kind) -> None:
    boxes, levels, valid = regions(count=3)
    maps = [value[:, :1].detach().requires_grad_() for value in pyramid(torch.float64)]

    def pooled(*values: Tensor) -> Tensor:
        return crop_resize(list(values), boxes.double(), levels, valid, SCALES, 3, kind)

    assert torch.autograd.gradcheck(pooled, tuple(maps))


@pytest.mark.parametrize("kind", ["affine", "crop_resize"])
def test_values_of_invalid_regions_do_not_matter(kind: Kind) -> None:
    boxes, levels, valid = regions()
    other = torch.where(valid[..., None], boxes, torch.nan)
    found = crop_resize(pyramid(), other, levels, valid, SCALES, 4, kind)
    assert torch.equal(found, crop_resize(pyramid(), boxes, levels, valid, SCALES, 4, kind))
    assert crop_resize(pyramid(), boxes[:, :0], levels[:, :0], valid[:, :0], SCALES, 4, kind).shape == (2, 0, 3, 4, 4)
