"""Keypoints as bins of a heatmap, and heatmaps decoded to keypoints, against torchvision and a slow loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from rcnn.ops import heatmap_maxima
from rcnn.ops.keypoints import decode_by_resizing, decode_keypoints, keypoint_bins


def smooth_maps(regions: int, joints: int, seed: int, side: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(regions, joints, side // 2, side // 2, generator=generator)
    return F.interpolate(coarse, scale_factor=2.0, mode="bilinear")


def rough_maps(regions: int, joints: int, seed: int, side: int = 56) -> Tensor:
    return torch.randn(regions, joints, side, side, generator=torch.Generator().manual_seed(seed))


def some_boxes(count: int, seed: int, least: float, most: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 400
    return torch.cat([corner, corner + least + torch.rand(count, 2, generator=generator) * (most - least)], 1)


@pytest.mark.parametrize("make", [smooth_maps, rough_maps])
@pytest.mark.parametrize(("least", "most"), [(0.1, 3), (5, 60), (50, 300)])
def test_decoding_equals_resizing_the_whole_map(
    make: Callable[[int, int, int], Tensor], least: float, most: float
) -> None:
    maps, boxes = make(11, 3, 0), some_boxes(11, 1, least, most)
    found = decode_keypoints(maps.view(1, 11, 3, 56, 56), boxes[None])[0]
    torch.testing.assert_close(found, decode_by_resizing(maps, boxes), atol=2e-4, rtol=1e-4)


def test_decoding_equals_torchvision() -> None:
    maps, boxes = smooth_maps(20, 17, 2), some_boxes(20, 3, 10, 200)
    points, logits = heatmaps_to_keypoints(maps, boxes)
    fast = decode_keypoints(maps.view(2, 10, 17, 56, 56), boxes.view(2, 10, 4)).flatten(0, 1)
    for found in (fast, decode_by_resizing(maps, boxes)):
        torch.testing.assert_close(found[..., :2], points[..., :2], atol=1e-3, rtol=0)
        torch.testing.assert_close(found[..., 2], logits, atol=1e-4, rtol=0)


def test_a_small_map_of_another_side_and_a_strip_of_a_box() -> None:
    maps, boxes = smooth_maps(3, 2, 4, side=12), torch.tensor([[0.0, 0, 300, 2], [3, 3, 4.5, 200], [5, 5, 5, 5]])
    found = decode_keypoints(maps[None], boxes[None])[0]
    torch.testing.assert_close(found, decode_by_resizing(maps, boxes), atol=1e-4, rtol=1e-4)


def test_of_equal_maxima_the_first_by_row_wins() -> None:
    maps = torch.zeros(1, 1, 2, 8, 8)
    maps[0, 0, 1, 5, 1] = maps[0, 0, 1, 2, 6] = 3.0
    boxes = torch.tensor([[[10.0, 20, 18, 28]]])  # a pixel for each sample, so that no value is between two
    for found in (decode_keypoints(maps, boxes)[0, 0], decode_by_resizing(maps[0], boxes[0])[0]):
        assert found[0, :2].tolist() == [10.5, 20.5]
        assert found[1, :2].tolist() == [16.5, 22.5]
        assert found[:, 2].tolist() == [0.0, 3.0]
        torch.testing.assert_close(found[:, 3], torch.tensor([1 / 64, 1 / (2 + 62 * math.exp(-3))]))


def test_no_bound_is_passed_by_a_value() -> None:
    maps = rough_maps(6, 1, 5, side=10)
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")[:, 0]
    bounds = heatmap_maxima._upper_bounds(padded)  # (6, 11, 11)
    fine = F.interpolate(maps, size=(400, 400), mode="bicubic", align_corners=False)[:, 0]
    patch = ((torch.arange(400) + 0.5) * 10 / 400 - 0.5).floor().long() + 1
    excess = fine - bounds[:, patch][:, :, patch]
    assert float(excess.max()) <= 1e-5
    assert float(excess.max()) > -0.2  # and the bounds are near


def test_results_do_not_depend_on_how_much_is_done_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes = smooth_maps(9, 4, 6)[None], some_boxes(9, 7, 4, 150)[None]
    expected = decode_keypoints(maps, boxes)
    monkeypatch.setattr(heatmap_maxima, "REGIONS_AT_A_TIME", 2)
    monkeypatch.setattr(heatmap_maxima, "PIXELS_AT_A_TIME", 50)
    torch.testing.assert_close(decode_keypoints(maps, boxes), expected, atol=1e-5, rtol=1e-6)


def test_empty_flat_and_not_finite() -> None:
    assert decode_keypoints(torch.zeros(2, 0, 17, 56, 56), torch.zeros(2, 0, 4)).shape == (2, 0, 17, 4)
    flat = decode_keypoints(torch.full((1, 1, 1, 56, 56), 2.0), torch.tensor([[[0.0, 0, 90, 90]]]))[0, 0, 0]
    torch.testing.assert_close(flat[2:], torch.tensor([2.0, 1 / 3136]))
    broken = decode_keypoints(torch.full((1, 1, 1, 56, 56), torch.nan), torch.tensor([[[0.0, 0, 90, 90]]]))[0, 0, 0]
    assert float(broken[3]) == 0
    assert bool(broken[:2].isfinite().all())


def test_bfloat16_maps_give_float32() -> None:
    maps, boxes = smooth_maps(2, 2, 8)[None].bfloat16(), some_boxes(2, 9, 40, 90)[None]
    found = decode_keypoints(maps, boxes)
    assert found.dtype == torch.float32
    assert torch.equal(found, decode_keypoints(maps.float(), boxes))


def test_opcheck() -> None:
    answers = torch.library.opcheck(
        torch.ops.rcnn.decode_keypoints.default,
        (smooth_maps(4, 2, 0).view(2, 2, 2, 56, 56), some_boxes(4, 0, 5, 50).view(2, 2, 4)),
    )
    assert set(answers.values()) == {"SUCCESS"}


@pytest.mark.parametrize("size", [56, 28])
def test_bins_equal_torchvision(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = some_boxes(40, 1, 1, 90)
    sides = boxes[:, 2:] - boxes[:, :2]
    points = boxes[:, None, :2] + sides[:, None] * (torch.rand(40, 17, 2, generator=generator) * 1.4 - 0.2)
    points[:, 0] = boxes[:, 2:]  # in the corner, which still is inside
    points[:, 1] = boxes[:, :2]
    keypoints = torch.cat([points, torch.randint(0, 3, (40, 17, 1), generator=generator)], -1)
    bins, valid = keypoint_bins(keypoints.view(2, 20, 17, 3), boxes.view(2, 20, 4), size)
    expected, expected_valid = keypoints_to_heatmap(keypoints, boxes, size)
    assert torch.equal(valid.flatten(0, 1), expected_valid.bool())
    assert torch.equal(bins.flatten(0, 1), expected)
    assert bool(valid[..., 0].any())


def test_bins_by_hand() -> None:
    keypoints = torch.tensor([[14.0, 20, 2], [20, 30, 1], [20.01, 25, 2], [10, 20, 0], [9.99, 25, 2]])
    bins, valid = keypoint_bins(keypoints[None, None], torch.tensor([[[10.0, 20, 20, 30]]]), 10)
    assert valid[0, 0].tolist() == [True, True, False, False, False]
    assert bins[0, 0].tolist() == [4, 99, 0, 0, 0]


def test_a_box_of_no_size_has_no_bins() -> None:
    bins, valid = keypoint_bins(torch.tensor([[[[5.0, 5, 2]]]]), torch.tensor([[[5.0, 5, 5, 9]]]), 56)
    assert not valid.any()
    assert not bins.any()
