"""OpenCV's resize against its rule in plain loops; to the bit against OpenCV itself in tests/parity (Chainer)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rcnn.ops.opencv import resize_bilinear


def slow(image: np.ndarray, size: tuple[int, int], factor: float | None) -> np.ndarray:
    """Pixel by pixel, of one channel; integers of 11 bits for uint8, as cv2 has them."""
    height, width = image.shape
    steps = [(old / new if factor is None else 1 / factor) for old, new in zip(image.shape, size, strict=True)]
    result = np.zeros(size, image.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (row + 0.5) * steps[0] - 0.5, (column + 0.5) * steps[1] - 0.5
            top, left = math.floor(y), math.floor(x)
            if image.dtype == np.uint8 or factor is not None:  # the positions are rounded to float32
                y, x = float(np.float32(y)), float(np.float32(x))
            down, right = np.float32(y - top), np.float32(x - left)
            if not 0 <= left < width - 1:
                right = np.float32(0)
            rows = [min(max(top + i, 0), height - 1) for i in (0, 1)]
            columns = [min(max(left + i, 0), width - 1) for i in (0, 1)]
            corners = [[image[r, c] for c in columns] for r in rows]
            if image.dtype == np.uint8:
                x1, y1 = round(float(right) * 2048), round(float(down) * 2048)
                x0, y0 = round(float(1 - right) * 2048), round(float(1 - down) * 2048)
                across = [(int(a) * x0 + int(b) * x1) >> 4 for a, b in corners]
                result[row, column] = (((across[0] * y0) >> 16) + ((across[1] * y1) >> 16) + 2) >> 2
            else:
                across = [a * (1 - right) + b * right for a, b in corners]
                result[row, column] = across[0] * (1 - down) + across[1] * down
    return result


SIZES = [
    ((7, 9), (13, 20)),
    ((20, 31), (9, 11)),
    ((5, 5), (5, 5)),
    ((1, 6), (4, 3)),
    ((6, 1), (3, 4)),
    ((4, 4), (1, 1)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_equals_the_loop(old: tuple[int, int], new: tuple[int, int], kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *old)).astype(kind)
    ours = resize_bilinear(torch.from_numpy(image), new).numpy()
    assert ours.dtype == image.dtype
    for channel in range(3):
        expected = slow(image[channel], new, None)
        np.testing.assert_allclose(ours[channel], expected, atol=0 if kind == "uint8" else 1e-4)


def test_a_factor_spaces_the_samples_whatever_the_size_became() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 15, 21)).astype(np.uint8)
    size = round(15 * 1.28), round(21 * 1.28)
    by_factor = resize_bilinear(torch.from_numpy(image), size, 1.28)[0].numpy()
    np.testing.assert_array_equal(by_factor, slow(image[0], size, 1.28))
    assert (by_factor != resize_bilinear(torch.from_numpy(image), size)[0].numpy()).any()


def test_an_image_of_one_grey_keeps_it() -> None:
    for value in (0, 1, 127, 255):
        image = torch.full((3, 11, 17), value, dtype=torch.uint8)
        assert (resize_bilinear(image, (23, 40)) == value).all()
