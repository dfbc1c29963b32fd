"""Mask pasting of older systems, pixel by pixel; tests/parity compares it with the systems bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.ops.pasting import Paste, paste_as

SIZE = (40, 56)
BOXES = [
    [3.2, 4.7, 30.1, 22.9],
    [-6.4, -3.3, 12.0, 60.0],  # over three borders
    [50.0, 30.0, 58.0, 44.0],
    [20.3, 20.4, 20.8, 20.7],  # less than a pixel
    [0.0, 0.0, 56.0, 40.0],
]


def value_at(mask: np.ndarray, y: float, x: float) -> float:
    """OpenCV's bilinear value of a mask, with a replicated border."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, share in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, part in ((left, 1 - (x - left)), (left + 1, x - left)):
            r, c = min(max(row, 0), mask.shape[0] - 1), min(max(column, 0), mask.shape[1] - 1)
            total += share * part * float(mask[r, c])
    return total


def slow(kind: Paste, mask: np.ndarray, box: list[float]) -> np.ndarray:
    """A canvas (H, W) with the value of each pixel; -1 outside the pasted window."""
    height, width = SIZE
    x1, y1, x2, y2 = box
    if kind == "rounded":
        left, top = int(x1 + 0.5), int(y1 + 0.5)
        right, bottom = max(left, int(x2 - 0.5)), max(top, int(y2 - 0.5))
    else:
        mask, grown = np.pad(mask, 1), (len(mask) + 2) / len(mask)
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2 * grown, (y2 - y1) / 2 * grown
        left, top, right, bottom = int(x - w), int(y - h), int(x + w), int(y + h)
        if kind == "squeezed":
            left, top, right, bottom = max(left, 0), max(top, 0), min(right, width - 1), min(bottom, height - 1)
        right, bottom = max(left, right), max(top, bottom)
    canvas = np.full(SIZE, -1.0)
    for row in range(max(top, 0), min(bottom + 1, height)):
        for column in range(max(left, 0), min(right + 1, width)):
            y = (row - top + 0.5) * len(mask) / (bottom - top + 1) - 0.5
            x = (column - left + 0.5) * len(mask) / (right - left + 1) - 0.5
            canvas[row, column] = value_at(mask, y, x)
    return canvas


def pasted(kind: Paste, masks: np.ndarray, boxes: list[list[float]]) -> list[np.ndarray]:
    canvases = []
    for x0, y0, part in paste_as(kind, torch.from_numpy(masks), torch.tensor(boxes), SIZE):
        canvas = np.zeros(SIZE, bool)
        canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        assert x0 >= 0
        assert y0 >= 0
        canvases.append(canvas)
    return canvases


@pytest.mark.parametrize("kind", ["padded", "squeezed", "rounded"])
@pytest.mark.parametrize("side", [14, 28])
def test_equals_the_loop(kind: Paste, side: int) -> None:
    masks = np.random.default_rng(0).random((len(BOXES), side, side)).astype(np.float32)
    for ours, mask, box in zip(pasted(kind, masks, BOXES), masks, BOXES, strict=True):
        values = slow(kind, mask, box)
        clear = np.abs(values - 0.5) > 1e-4  # what lies on the threshold may fall on either side
        np.testing.assert_array_equal(ours[clear], (values > 0.5)[clear])
        assert clear.mean() > 0.99


def test_stretched_by_hand() -> None:
    """A mask between .2 and .4 is thresholded at the middle of its own range; a constant mask is empty."""
    mask = np.full((14, 14), 0.2, np.float32)
    mask[:, 7:] = 0.4
    [half, constant] = pasted(
        "stretched", np.stack([mask, np.full((14, 14), 0.9, np.float32)]), [[2, 3, 15, 16], [2, 3, 15, 16]]
    )
    expected = np.zeros(SIZE, bool)
    expected[3:17, 9:16] = True  # both ends belong to a box; 14 pixels, as the mask has
    np.testing.assert_array_equal(half, expected)
    assert not constant.any()
    noise = np.random.default_rng(2).random((1, 14, 14)).astype(np.float32)
    low, high = noise.min() * 255, noise.max() * 255
    grey = np.clip((noise[0] * 255 - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    large = np.asarray(Image.fromarray(grey).resize((31, 21), Image.Resampling.BILINEAR)) > 122
    np.testing.assert_array_equal(pasted("stretched", noise, [[10.7, 5.2, 41.3, 25.9]])[0][5:26, 10:41], large)


@pytest.mark.parametrize("kind", ["accurate", "padded", "squeezed", "rounded", "stretched"])
def test_no_masks_and_boxes_outside_the_image(kind: Paste) -> None:
    assert pasted(kind, np.zeros((0, 14, 14), np.float32), np.zeros((0, 4)).tolist() or [[]][:0]) == []
    ones = np.ones((3, 14, 14), np.float32)
    nowhere = [[np.nan, 0.0, 5.0, 5.0], [0.0, 0.0, np.inf, 9.0], [np.nan] * 4]
    assert not any(canvas.any() for canvas in pasted(kind, ones, nowhere))
