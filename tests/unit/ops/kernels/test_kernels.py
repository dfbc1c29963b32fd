"""The Triton kernels, in Triton's interpreter on the CPU, against the reference implementations of their ops."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rcnn.ops.decode_and_clip import decode_and_clip
from rcnn.ops.keypoints import decode_keypoints
from rcnn.ops.nms import nms
from rcnn.ops.polygons import rasterize_polygons
from rcnn.ops.ps_roi import _cells, ps_roi_pool, ps_roi_pool_backward
from rcnn.ops.roi_align import roi_align, roi_align_backward
from tests.device_sync import NoSyncs, on_fake_gpu
from tests.unit.random_boxes import random_boxes

pytest.importorskip("triton", reason="triton is not installed (there is none for this system)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET is not 1: these tests run in Triton's interpreter", allow_module_level=True)

from rcnn.ops.kernels import decode_and_clip as decode_kernel
from rcnn.ops.kernels import keypoints as keypoint_kernel
from rcnn.ops.kernels import nms as nms_kernel
from rcnn.ops.kernels import polygons as polygon_kernel
from rcnn.ops.kernels import ps_roi as ps_roi_kernel
from rcnn.ops.kernels import roi_align as roi_align_kernel

SCALES = [1 / 4, 1 / 8, 1 / 16]
GRIDS = [(12, 16), (6, 8), (3, 4)]  # of an image of 48 x 64


def regions(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, levels and validity (2, count): some boxes are partly or entirely outside, some have no area."""
    boxes = random_boxes(2, count, seed=1, extent=30) - 6
    boxes[:, 1::5, 2:] = boxes[:, 1::5, :2]
    boxes[:, 2::5] += 200
    return boxes, torch.arange(2 * count).view(2, count) % len(SCALES), torch.arange(2 * count).view(2, count) % 4 != 3


def pyramid(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, 5, *grid).to(dtype) for grid in GRIDS]


@pytest.mark.parametrize(("sampling", "aligned"), [(0, True), (2, False)])
def test_roi_align(sampling: int, aligned: bool) -> None:
    boxes, levels, valid = regions(6)
    features = pyramid()
    ours = roi_align_kernel.roi_align(features, boxes, levels, valid, SCALES, 2, sampling, aligned)
    expected = roi_align(features, boxes, levels, valid, SCALES, 2, sampling, aligned)
    assert ours.stride() == expected.stride()
    assert expected.abs().sum((2, 3, 4)).gt(0).sum() >= 4
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("sampling", "aligned"), [(0, True), (2, False)])
def test_gradient_of_roi_align(sampling: int, aligned: bool) -> None:
    boxes, levels, valid = regions(5)
    gradient = torch.randn(2, 5, 5, 2, 2)
    sides = [grid[0] for grid in GRIDS], [grid[1] for grid in GRIDS]
    expected = roi_align_backward(gradient, boxes, levels, valid, *sides, SCALES, sampling, aligned)
    ours = [torch.zeros_like(values) for values in expected]
    roi_align_kernel.roi_align_backward(gradient, ours, boxes, levels, valid, SCALES, sampling, aligned)
    for own, reference in zip(ours, expected, strict=True):
        assert reference.abs().sum() > 0
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_roi_align_of_other_precisions(dtype: torch.dtype) -> None:
    boxes, levels, valid = regions(2)
    features = pyramid(dtype)
    ours = roi_align_kernel.roi_align(features, boxes, levels, valid, SCALES, 2, 1, True)
    expected = roi_align(features, boxes, levels, valid, SCALES, 2, 1, True)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-5)


@pytest.mark.parametrize("rounded", [True, False])
def test_ps_roi_pool_and_its_gradient(rounded: bool) -> None:
    boxes, _, valid = regions(2)
    maps, scale, groups, size = torch.randn(2, 3 * 4, 6, 8), 1 / 8, 2, 4
    cells = _cells(boxes, valid, scale, size, rounded, 6, 8)
    expected = ps_roi_pool(maps, boxes, valid, scale, groups, size, rounded)
    ours = ps_roi_kernel.ps_roi_pool(maps, *cells, groups)
    assert ours.stride() == expected.stride()
    assert expected.abs().sum() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(expected)
    spread = torch.zeros_like(maps)
    ps_roi_kernel.ps_roi_pool_backward(gradient, spread, *cells, groups)
    expected = ps_roi_pool_backward(gradient, boxes, valid, 6, 8, scale, groups, rounded)
    torch.testing.assert_close(spread, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("iou_threshold", [0.3, 0.7])
def test_nms(iou_threshold: float) -> None:
    """More boxes than a tile, several groups, equal scores, invalid boxes, and boxes that are equal."""
    boxes = random_boxes(2, 150, seed=3, extent=30, smallest=4)
    boxes[:, 100:110] = boxes[:, :1]
    scores = (torch.rand(2, 150) * 20).round() / 20
    groups = torch.randint(0, 3, (2, 150))
    valid = torch.rand(2, 150) > 0.1
    for keep in (7, 90):
        expected = nms(boxes, scores, groups, valid, iou_threshold, keep)
        ours = nms_kernel.nms(boxes, scores, groups, valid, iou_threshold, keep)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        assert expected[1].sum() > 10


def test_nms_keeps_an_overlap_at_the_threshold() -> None:
    """The IoU of the boxes is 3 / 10 in float32, which is more than 0.3 in float64, as on the CPU."""
    boxes = torch.tensor([[[0.0, 0, 10, 1], [0, 0, 3, 1], [20, 0, 22, 1], [20, 0, 21, 1]]])
    scores, groups = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.zeros(1, 4, dtype=torch.int64)
    valid = torch.ones(1, 4, dtype=torch.bool)
    for threshold in (0.3, 0.5):
        expected = nms(boxes, scores, groups, valid, threshold, 4)
        torch.testing.assert_close(nms_kernel.nms(boxes, scores, groups, valid, threshold, 4), expected)


def outlines() -> Tensor:
    """Polygons (2, 3, 9, 5): an object of one part, one of two parts that overlap, one without."""
    generator = torch.Generator().manual_seed(5)
    polygons = torch.full((2, 3, 9, 5), -1.0)
    for image in range(2):
        for row, parts in ((0, [5]), (1, [4, 3])):
            start = 0
            for part, corners in enumerate(parts):
                points = torch.rand(corners, 2, generator=generator) * 40
                edges = torch.cat([points, points.roll(-1, 0), torch.full((corners, 1), float(part))], 1)
                polygons[image, row, start : start + corners] = edges
                start += corners
    return polygons


def test_rasterize_polygons() -> None:
    boxes = random_boxes(2, 6, seed=6, extent=40)
    boxes[0, 0, 2:] = boxes[0, 0, :2] + 0.01  # shorter than the smallest divisor
    matched, valid = torch.arange(12).view(2, 6) % 3, torch.arange(12).view(2, 6) != 4
    expected = rasterize_polygons(outlines(), matched, boxes, valid, 14)
    ours = polygon_kernel.rasterize_polygons(outlines(), matched, boxes, valid, 14)
    assert expected.sum() > 100
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_decode_keypoints() -> None:
    maps = torch.randn(1, 3, 2, 5, 5)
    maps[0, 2, 1] = 0.5  # flat: of equal maxima the first by row
    boxes = torch.tensor([[[2.0, 3.0, 12.5, 10.2], [0.0, 0.0, 3.0, 14.0], [5.0, 5.0, 5.2, 9.0]]])
    expected = decode_keypoints(maps, boxes)
    torch.testing.assert_close(keypoint_kernel.decode_keypoints(maps, boxes), expected, rtol=1e-5, atol=1e-5)
    maps[0, 0, 0, 2, 2] = torch.nan
    assert keypoint_kernel.decode_keypoints(maps[:, :1], boxes[:, :1])[0, 0, 0, 3] == 0


def test_decode_and_clip() -> None:
    anchors = random_boxes(300, seed=7)
    deltas = torch.randn(2, 300, 4)
    deltas[0, 0, 2], deltas[0, 1, 3] = 1000.0, torch.nan
    index = torch.randint(0, 300, (2, 270))
    index[0, :2] = torch.tensor([0, 1])
    sizes = torch.tensor([[80, 90], [60, 70]])
    weights = (10.0, 10.0, 5.0, 5.0)
    for values in (deltas, deltas.bfloat16()):
        expected = decode_and_clip(values, anchors, index, sizes, weights, 4.0)
        ours = decode_kernel.decode_and_clip(values, anchors, index, sizes, weights, 4.0)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4, equal_nan=True)


def test_nothing_to_compute() -> None:
    """Zero regions, zero boxes, zero objects, and nothing valid."""
    none, zero = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    features = pyramid()
    assert roi_align_kernel.roi_align(features, none, zero, zero.bool(), SCALES, 3, 2, True).shape == (2, 0, 5, 3, 3)
    assert nms_kernel.nms(none, zero.float(), zero, zero.bool(), 0.5, 3)[1].sum() == 0
    boxes, valid = random_boxes(2, 4, seed=8), torch.zeros(2, 4, dtype=torch.bool)
    row = torch.zeros(2, 4, dtype=torch.int64)
    assert nms_kernel.nms(boxes, torch.rand(2, 4), row, valid, 0.5, 3)[1].sum() == 0
    assert roi_align_kernel.roi_align(features, boxes, row, valid, SCALES, 1, 2, True).abs().sum() == 0
    assert polygon_kernel.rasterize_polygons(torch.zeros(2, 0, 0, 5), row, boxes, valid, 7).sum() == 0
    assert ps_roi_kernel.ps_roi_pool(torch.ones(2, 4, 3, 3), *_cells(boxes, valid, 1.0, 2, False, 3, 3), 2).sum() == 0
    assert keypoint_kernel.decode_keypoints(torch.zeros(2, 0, 3, 5, 5), none).shape == (2, 0, 3, 4)
    assert decode_kernel.decode_and_clip(boxes, boxes[0], zero, torch.ones(2, 2), (1.0,) * 4, 4.0).shape == (2, 0, 4)


def test_launching_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs around the kernels, on fake CUDA tensors, with the launches left out."""
    from triton.runtime.interpreter import InterpretedFunction

    launched: list[str] = []

    def note(kernel: Any, *args: object, **kwargs: object) -> None:
        launched.append(kernel.fn.__name__)

    monkeypatch.setattr(InterpretedFunction, "run", note)
    mode = FakeTensorMode()
    boxes, levels, valid = on_fake_gpu(regions(6), mode)
    features, polygons = on_fake_gpu((pyramid(), outlines()), mode)
    maps, scores, pooled = on_fake_gpu(
        (torch.zeros(2, 6, 3, 5, 5), torch.zeros(2, 6), torch.zeros(2, 6, 5, 3, 3)), mode
    )
    with mode, NoSyncs():
        roi_align_kernel.roi_align(features, boxes, levels, valid, SCALES, 3, 2, True)
        roi_align_kernel.roi_align_backward(pooled, features, boxes, levels, valid, SCALES, 2, True)
        nms_kernel.nms(boxes, scores, levels, valid, 0.3, 7)
        polygon_kernel.rasterize_polygons(polygons, levels, boxes, valid, 14)
        cells = _cells(boxes, valid, 1.0, 3, True, 12, 16)
        ps_roi_kernel.ps_roi_pool(maps.flatten(0, 1).new_empty((2, 9, 12, 16)), *cells, 3)
        ps_roi_kernel.ps_roi_pool_backward(pooled[:, :, :1], maps.new_empty((2, 9, 12, 16)), *cells, 3)
        keypoint_kernel.decode_keypoints(maps, boxes)
        decode_kernel.decode_and_clip(boxes, boxes[0], levels, boxes[:, 0, :2], (1.0,) * 4, 4.0)
    assert len(launched) == 8
