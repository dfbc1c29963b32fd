"""Mask targets from bitmaps as in older systems: against slow loops, and against RoIAlign where both agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from rcnn.ops.bitmap_targets import Cut, cut_bitmaps
from tests.compiled import FORWARD
from tests.unit.ops.test_opencv import slow as opencv_loop

SIDE, HEIGHT, WIDTH = 14, 40, 50
WHOLE = torch.tensor([[HEIGHT, WIDTH]])  # size of an image without padding
BOXES = torch.tensor(
    [
        [3.3, 4.6, 29.5, 30.2],
        [0.0, 0.0, 50.0, 40.0],
        [10.5, 7.5, 24.5, 21.5],
        [30.2, 30.1, 30.6, 30.4],
        [44.0, 2.0, 50.0, 9.0],
    ]
)


def bitmaps(seed: int = 0) -> torch.Tensor:
    """Blobs (1, 3, H, W), their borders anywhere."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 8, 10), generator=draw)
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear") > 0.5


def slow(kind: Cut, bitmap: np.ndarray, box: list[float]) -> np.ndarray:
    values = np.zeros((SIDE, SIDE))
    x1, y1, x2, y2 = box
    if kind == "nearest":
        part = bitmap[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
        return np.asarray(Image.fromarray(part.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    if kind in ("resized", "truncated"):
        whole = round if kind == "resized" else int
        left, top, right, bottom = whole(x1), whole(y1), whole(x2), whole(y2)
        bitmap = bitmap[top : max(bottom, top + 1), left : max(right, left + 1)]
        if kind == "truncated":  # OpenCV's integers, which lose much of what lies between 0 and 1
            return opencv_loop(bitmap.astype(np.uint8), (SIDE, SIDE), None)
        x1, y1, x2, y2 = 0, 0, bitmap.shape[1], bitmap.shape[0]
    for row in range(SIDE):
        for column in range(SIDE):
            y, x = y1 + (row + 0.5) * (y2 - y1) / SIDE - 0.5, x1 + (column + 0.5) * (x2 - x1) / SIDE - 0.5
            if kind == "sampled" and not (0 <= y <= len(bitmap) - 1 and 0 <= x <= bitmap.shape[1] - 1):
                continue
            top, left = math.floor(y), math.floor(x)
            for r, share in ((top, 1 - (y - top)), (top + 1, y - top)):
                for c, part in ((left, 1 - (x - left)), (left + 1, x - left)):
                    inside = bitmap[min(max(r, 0), len(bitmap) - 1), min(max(c, 0), bitmap.shape[1] - 1)]
                    values[row, column] += share * part * inside
    return values


@pytest.mark.parametrize("kind", ["sampled", "resized", "truncated", "nearest"])
def test_equals_the_loop(kind: Cut) -> None:
    given = bitmaps()
    matched = torch.tensor([[0, 1, 2, 0, 1]])
    boxes = BOXES if kind != "nearest" else BOXES - torch.tensor([0, 0, 1, 1])  # raw boxes: the last pixel is theirs
    ours = cut_bitmaps(given, matched, boxes[None], torch.ones(1, 5, dtype=torch.bool), SIDE, kind, WHOLE)[0].numpy()
    for mask, owner, box in zip(ours, matched[0].tolist(), boxes.tolist(), strict=True):
        values = slow(kind, given[0, owner].numpy(), box)
        if kind != "resized":
            np.testing.assert_allclose(mask, values, atol=1e-4)
        else:
            clear = np.abs(values - 0.5) > 1e-3
            np.testing.assert_array_equal(mask[clear], (values > 0.5)[clear])


def test_the_sampled_target_equals_roi_align_with_one_sample() -> None:
    given = bitmaps(1)
    box = torch.tensor([[5.2, 3.9, 33.0, 31.7]])
    ours = cut_bitmaps(
        given, torch.zeros(1, 1, dtype=torch.int64), box[None], torch.ones(1, 1, dtype=torch.bool), 28, "sampled", WHOLE
    )
    theirs = torchvision.ops.roi_align(given[:, :1].float(), [box], 28, 1.0, 1, aligned=True)
    torch.testing.assert_close(ours[0], theirs[:, 0], atol=1e-5, rtol=0)


def test_an_image_ends_at_its_own_size() -> None:
    """Nothing is sampled beyond the center of the image's last pixel, even if the batch is wider."""
    given = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    box, sure = torch.tensor([[[4.0, 4.0, 12.0, 12.0]]]), torch.ones(1, 1, dtype=torch.bool)
    matched = torch.zeros(1, 1, dtype=torch.int64)
    whole = cut_bitmaps(given, matched, box, sure, 16, "sampled", torch.tensor([[20, 20]]))
    ended = cut_bitmaps(given, matched, box, sure, 16, "sampled", torch.tensor([[12, 12]]))
    assert whole.min() == 1
    assert ended[..., :15, :15].min() == 1
    assert ended[..., 15, :].max() == ended[..., :, 15].max() == 0


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["sampled", "resized", "truncated", "nearest"])
def test_invalid_regions_give_zeros_in_one_graph(kind: Cut) -> None:
    given = torch.ones(2, 3, 9, 9, dtype=torch.bool)
    boxes = torch.full((2, 4, 4), float("nan"))
    boxes[0, 0] = torch.tensor([1.0, 1.0, 8.0, 8.0])
    valid = torch.zeros(2, 4, dtype=torch.bool)
    valid[0, 0] = True
    matched = torch.zeros(2, 4, dtype=torch.int64)
    sizes = torch.full((2, 2), 9)
    found = cut_bitmaps(given, matched, boxes, valid, 7, kind, sizes)
    assert found[0, 0].min() == 1
    assert not found[~valid].any()
    none = cut_bitmaps(given[:, :, :0], matched[:, :0], boxes[:, :0], valid[:, :0], 7, kind, sizes)
    assert none.shape == (2, 0, 7, 7)
    compiled = torch.compile(cut_bitmaps, fullgraph=True, backend=FORWARD)
    torch.testing.assert_close(compiled(given, matched, boxes, valid, 7, kind, sizes), found)
