"""Masks cropped and pasted: against torchvision, Detectron2's paste over whole canvases, and by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from rcnn.ops import masks as masks_module
from rcnn.ops.masks import crop_bitmaps, paste_masks
from tests.unit.random_boxes import random_boxes
from tests.whole_masks import whole_masks


def blobs(*shape: int, seed: int = 0) -> Tensor:
    """Smooth random masks (*shape) in [0, 1], some pixels exactly 0 or 1."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).flatten(0, -3)[:, None]
    smooth = F.avg_pool2d(noise, 5, stride=1, padding=2)
    return ((smooth - 0.5) * 5 + 0.5).clamp(0, 1).reshape(shape)


def paste_on_canvases(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Detectron2's `_do_paste_mask` over whole images (N, H, W) bool."""
    height, width = size
    x0, y0, x1, y1 = boxes.split(1, 1)
    y = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= threshold


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("side", [1, 7, 14, 28])
def test_pasting_equals_sampling_whole_canvases(side: int, threshold: float) -> None:
    boxes = random_boxes(30, seed=side, extent=130) - 20  # many leave the image, some lie outside
    boxes[:4] = boxes[:4].round()
    masks = blobs(30, side, side)
    masks[:6] = 1.0  # whose edge has the value 0.5 exactly
    size = (70, 90)
    expected = paste_on_canvases(masks, boxes, size, threshold)
    assert expected.any()
    assert not expected.all()
    assert torch.equal(whole_masks(masks, boxes, size, threshold), expected)


def test_boxes_of_no_size_and_thinner_than_a_pixel() -> None:
    boxes = torch.tensor([[10.0, 10, 10, 20], [10, 10, 10, 10], [10.2, 10.2, 10.6, 10.6], [10.4, 5, 10.6, 15]])
    pasted = whole_masks(torch.ones(4, 28, 28), boxes, (30, 30))
    assert pasted.sum((1, 2)).tolist() == [0, 0, 1, 10]
    assert pasted[2, 10, 10]
    assert pasted[3, 5:15, 10].all()
    outside = torch.tensor([[-50.0, -50, -20, -20], [40, 40, 60, 60], [torch.nan, 0, 5, 5], [0, 0, torch.inf, 5]])
    assert not whole_masks(torch.ones(4, 28, 28), outside, (30, 30)).any()


def test_a_full_mask_fills_its_box_and_nothing_else() -> None:
    pasted = whole_masks(torch.ones(1, 28, 28), torch.tensor([[3.0, 4.0, 13.0, 24.0]]), (40, 30))
    expected = torch.zeros(1, 40, 30, dtype=torch.bool)
    expected[:, 4:24, 3:13] = True
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize("max_bytes", [1, 5_000, 1 << 26])
def test_regions_put_in_place_are_the_canvas_whatever_the_budget(max_bytes: int) -> None:
    masks, boxes, size = blobs(12, 28, 28), random_boxes(12, seed=1, extent=100) - 10, (60, 80)
    expected = paste_on_canvases(masks, boxes, size, 0.5)
    found = list(paste_masks(masks, boxes, size, max_bytes=max_bytes))
    assert len(found) == 12
    for (x0, y0, mask), canvas in zip(found, expected.numpy(), strict=True):
        height, width = mask.shape
        assert (mask == canvas[y0 : y0 + height, x0 : x0 + width]).all()
        assert mask.sum() == canvas.sum()  # nothing is set outside
        assert mask.dtype == bool


def test_a_thousand_masks_in_a_large_image_take_less_than_one_gigabyte() -> None:
    """Their canvases would take 12 GB. In a separate process, to measure its peak memory."""
    program = """
import torch
from rcnn.ops.coco_backend import encode_pasted, rle_area
from rcnn.ops.masks import paste_masks
def peak():
    # what getrusage says begins with the size of the process that began this one
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
before = peak()
size = (3000, 4000)
corner = torch.rand(1000, 2) * torch.tensor([3700.0, 2700.0])
boxes = torch.cat([corner, corner + 20 + torch.rand(1000, 2) * 280], 1)
boxes[::250] = torch.tensor([0.0, 0.0, 4000.0, 3000.0])
rles = [encode_pasted(*pasted, size) for pasted in paste_masks(torch.ones(1000, 28, 28), boxes, size)]
assert len(rles) == 1000 and 11_900_000 < rle_area(rles[0]) < 12_000_000  # the corners fade
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**20  # KiB


def test_regions_are_no_larger_than_their_boxes_need() -> None:
    [pasted] = paste_masks(torch.ones(1, 28, 28), torch.tensor([[1000.5, 2000.5, 1010.5, 2030.5]]), (3000, 4000))
    assert (pasted.x0, pasted.y0, pasted.mask.shape) == (999, 1999, (33, 13))


def test_no_masks() -> None:
    assert list(paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10))) == []
    assert whole_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 12)).shape == (0, 10, 12)


def test_a_threshold_that_sets_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold is 0.*more than 0"):
        whole_masks(torch.ones(1, 28, 28), torch.zeros(1, 4), (10, 10), threshold=0)


@pytest.mark.parametrize("aligned", [True, False])
def test_crops_equal_torchvisions_roi_align(aligned: bool) -> None:
    bitmaps = blobs(2, 5, 60, 80) > 0.5
    matched, boxes = torch.randint(0, 5, (2, 9)), random_boxes(2, 9, seed=2, extent=70) - 5
    valid = torch.rand(2, 9) > 0.2
    soft = crop_bitmaps(bitmaps, matched, boxes, valid, 14, aligned, None)
    hard = crop_bitmaps(bitmaps, matched, boxes, valid, 14, aligned, 0.5)
    assert soft.dtype == hard.dtype == torch.float32
    for image in range(2):
        rois = torch.cat([matched[image, :, None].float(), boxes[image]], 1)
        expected = torchvision.ops.roi_align(bitmaps[image, :, None].float(), rois, 14, 1.0, -1, aligned)[:, 0]
        expected *= valid[image, :, None, None]
        torch.testing.assert_close(soft[image], expected)
        assert torch.equal(hard[image], (expected >= 0.5).float())


def test_soft_crops_are_torchvisions_mask_targets() -> None:
    bitmaps, boxes = blobs(1, 3, 50, 50) > 0.5, random_boxes(1, 6, seed=3, extent=40)
    matched = torch.tensor([[0, 2, 1, 1, 0, 2]])
    expected = project_masks_on_boxes(bitmaps[0].float(), boxes[0], matched[0], 28)
    got = crop_bitmaps(bitmaps, matched, boxes, torch.ones(1, 6, dtype=torch.bool), 28, False, None)
    torch.testing.assert_close(got[0], expected)


def test_a_crop_of_whole_pixels_is_those_pixels() -> None:
    bitmaps = blobs(1, 1, 30, 30) > 0.5
    crop = crop_bitmaps(
        bitmaps,
        torch.zeros(1, 1).long(),
        torch.tensor([[[4.0, 6.0, 18.0, 20.0]]]),
        torch.ones(1, 1).bool(),
        14,
        True,
        0.5,
    )
    assert torch.equal(crop[0, 0].bool(), bitmaps[0, 0, 6:20, 4:18])


def test_many_objects_are_cropped_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps, boxes = blobs(1, 40, 20, 20) > 0.5, random_boxes(1, 500, seed=4, extent=15)
    matched, valid = torch.randint(0, 40, (1, 500)), torch.ones(1, 500, dtype=torch.bool)
    expected = crop_bitmaps(bitmaps, matched, boxes, valid, 7, True, None)
    monkeypatch.setattr(masks_module, "MAX_CROP_BYTES", 3 * 4 * 20 * 20)
    torch.testing.assert_close(crop_bitmaps(bitmaps, matched, boxes, valid, 7, True, None), expected, rtol=0, atol=0)


def test_no_regions_no_objects_and_none_valid() -> None:
    bitmaps, matched = torch.ones(2, 3, 20, 20, dtype=torch.bool), torch.zeros(2, 4).long()
    boxes, never = random_boxes(2, 4, seed=5), torch.zeros(2, 4, dtype=torch.bool)
    assert crop_bitmaps(bitmaps, matched, boxes, never, 7, True, 0.5).eq(0).all()
    assert crop_bitmaps(bitmaps[:, :0], matched, boxes, never, 7, True, 0.5).shape == (2, 4, 7, 7)
    assert crop_bitmaps(bitmaps, matched[:, :0], boxes[:, :0], never[:, :0], 7, True, 0.5).shape == (2, 0, 7, 7)


def test_opcheck() -> None:
    bitmaps, boxes = blobs(2, 3, 20, 20) > 0.5, random_boxes(2, 4, seed=6, extent=15)
    matched, valid = torch.randint(0, 3, (2, 4)), torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert set(
        torch.library.opcheck(crop_bitmaps.overload, (bitmaps, matched, boxes, valid, 7, True, 0.5)).values()
    ) == {"SUCCESS"}
    assert set(
        torch.library.opcheck(crop_bitmaps.overload, (bitmaps, matched, boxes, valid, 7, False, None)).values()
    ) == {"SUCCESS"}
