"""Position-sensitive pooling against a loop over cells, the fixtures of both Chainer ports, and opcheck."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.ps_roi import ps_roi_pool, ps_roi_pool_backward


def slow_pool(maps: Tensor, boxes: Tensor, scale: float, groups: int, size: int, rounded: bool) -> Tensor:
    """The definition, cell by cell (facts: msracver/FCIS); boxes (B, R, 4)."""
    channels, height, width = maps.shape[1] // groups**2, *maps.shape[2:]
    out = maps.new_zeros((*boxes.shape[:2], channels, size, size))
    for image in range(len(boxes)):
        for region, box in enumerate(boxes[image].tolist()):
            if rounded:
                box = [math.copysign(math.floor(abs(value) + 0.5), value) for value in box]
            x1, y1, x2, y2 = (value * scale for value in box)
            high, wide = max(y2 - y1, 0.1) / size, max(x2 - x1, 0.1) / size
            for i in range(size):
                for j in range(size):
                    top, bottom = math.floor(i * high + y1), math.ceil((i + 1) * high + y1)
                    left, right = math.floor(j * wide + x1), math.ceil((j + 1) * wide + x1)
                    top, bottom = min(max(top, 0), height), min(max(bottom, 0), height)
                    left, right = min(max(left, 0), width), min(max(right, 0), width)
                    if bottom <= top or right <= left:
                        continue
                    for c in range(channels):
                        plane = maps[image, (c * groups + i * groups // size) * groups + j * groups // size]
                        out[image, region, c, i, j] = plane[top:bottom, left:right].mean()
    return out


def random_input(regions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (2, 3 * 9, 7, 9) and boxes in an image of 112 x 144, some outside, some without area."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3 * 9, 7, 9, generator=generator)
    corner = torch.rand(2, regions, 2, generator=generator) * 130 - 15
    boxes = torch.cat([corner, corner + torch.rand(2, regions, 2, generator=generator) * 90], -1)
    boxes[:, 3:4, 2:] = boxes[:, 3:4, :2]
    return maps, boxes, torch.ones(2, regions, dtype=torch.bool)


@pytest.mark.parametrize("rounded", [False, True])
def test_equals_a_loop_over_cells(rounded: bool) -> None:
    maps, boxes, valid = random_input(7)
    pooled = ps_roi_pool(maps, boxes, valid, 1 / 16, 3, 6, rounded)
    torch.testing.assert_close(
        pooled, slow_pool(maps.double(), boxes, 1 / 16, 3, 6, rounded).float(), atol=1e-6, rtol=1e-6
    )


def test_places_that_are_not_valid_are_zero_and_get_no_gradient() -> None:
    maps, boxes, valid = random_input(5)
    maps.requires_grad_()
    valid[0] = False
    pooled = ps_roi_pool(maps, boxes, valid, 1 / 16, 3, 6, False)
    assert (pooled[0] == 0).all()
    assert pooled[1].abs().sum() > 0
    pooled.sum().backward()
    assert maps.grad is not None
    assert (maps.grad[0] == 0).all()
    assert maps.grad[1].abs().sum() > 0


@pytest.mark.parametrize("regions", [0, 1])
def test_no_region_and_one(regions: int) -> None:
    maps, boxes, valid = random_input(max(regions, 4))
    pooled = ps_roi_pool(maps, boxes[:, :regions], valid[:, :regions], 1 / 16, 3, 6, False)
    assert pooled.shape == (2, regions, 3, 6, 6)


def test_gradient_equals_finite_differences() -> None:
    _, boxes, valid = random_input(4)
    maps = torch.randn(2, 2 * 4, 3, 4, dtype=torch.float64, requires_grad=True)  # of 96 x 128 pixels

    def pooled(values: Tensor) -> Tensor:
        return ps_roi_pool(values, boxes[:, 2:], valid[:, 2:], 1 / 32, 2, 4, False)

    assert (pooled(maps) != 0).any((0, 1, 3, 4)).all()
    assert torch.autograd.gradcheck(pooled, maps)


def test_opcheck() -> None:
    maps, boxes, valid = random_input(4)
    arguments = (maps.requires_grad_(), boxes, valid, 1 / 16, 3, 6, True)
    assert set(torch.library.opcheck(ps_roi_pool.overload, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("name", "rounded"), [("ps_roi_average_pooling_2d_chainercv", False), ("psroi_pooling_2d_chainer_fcis", True)]
)
def test_golden(shared: Path, name: str, rounded: bool) -> None:
    stored = np.load(shared / "golden/chainer/ops" / f"{name}.npz")
    rois = torch.from_numpy(stored["rois_yxyx"][:, [1, 0, 3, 2]].copy())
    image = torch.from_numpy(stored["roi_indices"].astype(np.int64))
    maps = torch.from_numpy(stored["x"]).requires_grad_()
    boxes = rois.expand(2, -1, -1)
    valid = torch.stack([image == 0, image == 1])
    pooled = ps_roi_pool(maps, boxes, valid, 1 / 16, 7, 21, rounded)
    np.testing.assert_allclose(pooled.sum(0).detach().numpy(), stored["y"], atol=1e-5)
    pooled.sum(0).backward(torch.from_numpy(stored["gy"]))
    assert maps.grad is not None
    np.testing.assert_allclose(maps.grad.numpy(), stored["gx"], atol=1e-5)


def test_deterministic_gradients_do_not_come_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's sums are atomic, so their order changes from run to run."""
    maps, boxes, valid = random_input(3)
    gradient = torch.ones(2, 3, 3, 6, 6)

    def spread() -> Tensor:
        return ps_roi_pool_backward(gradient, boxes, valid, maps.shape[2], maps.shape[3], 1 / 16, 3, False)

    def usable(values: Tensor) -> bool:
        return True

    def adds_nothing(*_: object) -> None:
        pass

    expected = spread()
    assert expected.any()
    monkeypatch.setattr(kernels, "usable", usable)
    monkeypatch.setattr(kernels, "ps_roi", SimpleNamespace(ps_roi_pool_backward=adds_nothing), raising=False)
    assert not spread().any()
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(spread(), expected, atol=0, rtol=0)
    finally:
        torch.use_deterministic_algorithms(False)
