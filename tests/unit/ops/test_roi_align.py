"""RoIAlign over a pyramid: against torchvision's, level by level, values and gradients, and its choice of level."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.ops.poolers import LevelMapper

from rcnn.ops import roi_align as roi_align_module
from rcnn.ops.roi_align import assign_levels, roi_align, roi_align_backward
from tests.narrow import present
from tests.unit.random_boxes import random_boxes

SCALES = [1 / 4, 1 / 8, 1 / 16]
GRIDS = [(24, 32), (12, 16), (6, 8)]  # of an image of 96 x 128


def pyramid(batch: int = 2, channels: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, *grid, generator=generator) for grid in GRIDS]


def regions(batch: int, count: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, levels and validity: some boxes are partly or fully outside, some have no area."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(batch, count, seed=seed, extent=150) - 20
    boxes[:, 3::11, 2:] = boxes[:, 3::11, :2]
    boxes[:, 5::11] += 300
    levels = torch.randint(0, len(SCALES), (batch, count), generator=generator)
    return boxes, levels, torch.rand(batch, count, generator=generator) > 0.2


def by_torchvision(
    features: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, size: int, sampling: int, aligned: bool
) -> Tensor:
    """Regions (B, R, C, s, s), one call of torchvision's RoIAlign each."""
    rows = []
    for image in range(len(boxes)):
        for box, level, real in zip(boxes[image], levels[image].tolist(), valid[image], strict=True):
            values = features[level][image : image + 1].float()
            pooled = torchvision.ops.roi_align(values, [box[None]], size, SCALES[level], sampling, aligned)[0]
            rows.append(pooled * real)
    return torch.stack(rows).unflatten(0, boxes.shape[:2])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 14])
def test_values_and_gradients_equal_torchvisions(size: int, sampling: int, aligned: bool) -> None:
    boxes, levels, valid = regions(2, 33)
    ours = [f.requires_grad_() for f in pyramid()]
    theirs = [f.detach().clone().requires_grad_() for f in ours]
    pooled = roi_align(ours, boxes, levels, valid, SCALES, size, sampling, aligned)
    expected = by_torchvision(theirs, boxes, levels, valid, size, sampling, aligned)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().sum((2, 3, 4)).gt(0).sum() > 20
    weight = torch.randn_like(expected)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_the_slope() -> None:
    """RoIAlign is linear in the features, so that a finite difference of any step is exact."""
    boxes, levels, valid = regions(1, 12, seed=2)
    features = [f.double().float().requires_grad_() for f in pyramid(1, 2)]
    weight = torch.randn(1, 12, 2, 3, 3)
    (roi_align(features, boxes, levels, valid, SCALES, 3, 2, True) * weight).sum().backward()
    step = [torch.randn_like(f) for f in features]
    moved = [f.detach() + s for f, s in zip(features, step, strict=True)]
    before = roi_align([f.detach() for f in features], boxes, levels, valid, SCALES, 3, 2, True)
    rise = ((roi_align(moved, boxes, levels, valid, SCALES, 3, 2, True) - before) * weight).sum()
    slope = torch.stack([(present(f.grad) * s).sum() for f, s in zip(features, step, strict=True)]).sum()
    torch.testing.assert_close(slope, rise, rtol=1e-4, atol=1e-4)


def test_half_precision_features_are_pooled_in_float32() -> None:
    boxes, levels, valid = regions(2, 40)
    features = [f.bfloat16().requires_grad_() for f in pyramid()]
    exact = [f.detach().float().requires_grad_() for f in features]
    pooled = roi_align(features, boxes, levels, valid, SCALES, 7, 0, True)
    expected = roi_align(exact, boxes, levels, valid, SCALES, 7, 0, True)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), expected, rtol=2**-8, atol=1e-6)  # one rounding, at the end
    pooled.float().sum().backward()
    expected.sum().backward()
    for a, b in zip(features, exact, strict=True):
        assert a.grad is not None
        assert a.grad.dtype == torch.bfloat16
        torch.testing.assert_close(a.grad.float(), b.grad, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_maps_does_not_matter(layout: torch.memory_format) -> None:
    boxes, levels, valid = regions(2, 20)
    features = [f.contiguous(memory_format=layout) for f in pyramid()]
    expected = by_torchvision(pyramid(), boxes, levels, valid, 7, 2, True)
    torch.testing.assert_close(
        roi_align(features, boxes, levels, valid, SCALES, 7, 2, True), expected, rtol=1e-5, atol=1e-5
    )


def test_regions_in_pieces_are_the_same_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, levels, valid = regions(2, 40)
    expected = roi_align(pyramid(), boxes, levels, valid, SCALES, 7, 0, False)
    monkeypatch.setattr(roi_align_module, "REGIONS_AT_A_TIME", 3)
    torch.testing.assert_close(roi_align(pyramid(), boxes, levels, valid, SCALES, 7, 0, False), expected)


def test_invalid_regions_may_hold_anything_and_give_nothing() -> None:
    boxes, levels, _ = regions(2, 9)
    valid = torch.arange(9).expand(2, -1) < 5
    spoilt = torch.where(valid[..., None], boxes, torch.nan)
    levels = torch.where(valid, levels, -7)
    features = [f.requires_grad_() for f in pyramid()]
    pooled = roi_align(features, spoilt, levels, valid, SCALES, 7, 0, True)
    assert pooled[:, 5:].eq(0).all()
    pooled.sum().backward()
    assert all(f.grad is not None and f.grad.isfinite().all() for f in features)
    torch.testing.assert_close(pooled[:, :5], roi_align(features, boxes, levels, valid, SCALES, 7, 0, True)[:, :5])


@pytest.mark.parametrize("count", [0, 4])
def test_no_regions_and_none_valid(count: int) -> None:
    boxes, levels = torch.zeros(2, count, 4), torch.zeros(2, count).long()
    features = [f.requires_grad_() for f in pyramid()]
    pooled = roi_align(features, boxes, levels, torch.zeros(2, count).bool(), SCALES, 7, 0, True)
    assert pooled.shape == (2, count, 5, 7, 7)
    assert pooled.eq(0).all()
    pooled.sum().backward()
    assert all(f.grad is not None and f.grad.eq(0).all() for f in features)


@pytest.mark.parametrize("eps_inside", [True, False])
def test_levels_by_definition(eps_inside: bool) -> None:
    sides = torch.tensor([0.0, 1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 895.0, 2000.0])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides, sides], 1)
    assert assign_levels(boxes, eps_inside=eps_inside).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert assign_levels(boxes, 3, 4, eps_inside=eps_inside).tolist() == [0] * 5 + [1] * 5
    assert assign_levels(boxes[None, :0]).shape == (1, 0)
    turned = boxes[:, [2, 1, 0, 3]]  # inside out: no area
    assert assign_levels(turned, eps_inside=eps_inside).eq(0).all()


def test_levels_equal_torchvisions() -> None:
    boxes = random_boxes(2000, seed=3, extent=1500, smallest=0)
    expected = LevelMapper(2, 5)([boxes])
    assert len(expected.unique()) == 4
    assert torch.equal(assign_levels(boxes, eps_inside=False), expected)


def test_opcheck() -> None:
    boxes, levels, valid = regions(2, 6)
    features = [f.requires_grad_() for f in pyramid(2, 3)]
    assert set(
        torch.library.opcheck(roi_align.overload, (features, boxes, levels, valid, SCALES, 3, 2, True)).values()
    ) == {"SUCCESS"}
    gradient = torch.randn(2, 6, 3, 3, 3)
    heights, widths = [h for h, _ in GRIDS], [w for _, w in GRIDS]
    assert set(
        torch.library.opcheck(
            roi_align_backward.overload, (gradient, boxes, levels, valid, heights, widths, SCALES, 2, True)
        ).values()
    ) == {"SUCCESS"}


def test_the_accelerator_path_gives_the_same_values() -> None:
    boxes, levels, valid = regions(2, 15)
    features = pyramid()
    expected = roi_align(features, boxes, levels, valid, SCALES, 7, 2, True)
    pooled = roi_align_module._pool_by_torchvision(features, boxes, levels, valid, SCALES, 7, 2, True)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(expected)
    heights, widths = [h for h, _ in GRIDS], [w for _, w in GRIDS]
    ours = roi_align_backward(gradient, boxes, levels, valid, heights, widths, SCALES, 2, True)
    maps = [torch.zeros(f.shape) for f in features]
    theirs = roi_align_module._spread_by_torchvision(gradient, maps, boxes, levels, valid, SCALES, 2, True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_float64_maps_are_pooled_in_float64() -> None:
    """Sums of 10^8 and 1: float32 would lose the small one."""
    maps = torch.full((1, 1, 8, 8), 1e8, dtype=torch.float64) + torch.arange(8.0, dtype=torch.float64)
    maps.requires_grad_()
    box, level, valid = torch.tensor([[[0.0, 0, 8, 8]]]), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1).bool()
    pooled = roi_align([maps], box, level, valid, [1.0], 1, 0, True)
    assert pooled.dtype == torch.float64
    assert pooled.item() - 1e8 == pytest.approx(3.5, abs=1e-6)
    pooled.backward()
    assert maps.grad is not None
    assert maps.grad.dtype == torch.float64
