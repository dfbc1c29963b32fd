"""Normalization of padded images, against numpy, and the same bit for bit in every memory layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.ops.normalize import normalize_pixels

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def normalized(pixels: Tensor, sizes: Tensor) -> Tensor:
    return normalize_pixels(pixels, sizes, MEAN[:, None, None], STD[:, None, None])


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (6, 10, [(6, 10), (6, 10)]),
        (6, 10, [(6, 10), (4, 7)]),
        (6, 10, [(1, 10), (6, 1)]),
        (1, 1, [(1, 1)]),
        (5, 3, []),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_equal_numpys(height: int, width: int, sizes: list[tuple[int, int]], channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (len(sizes), height, width, 3), generator=generator).float()  # padding is not 0
    pixels = values.permute(0, 3, 1, 2) if channels_last else values.permute(0, 3, 1, 2).contiguous()
    ours = normalized(pixels, torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2))
    expected = (values.numpy() - MEAN.numpy()) / STD.numpy()
    for image, (h, w) in zip(expected, sizes, strict=True):
        image[h:] *= 0  # -0 for what was negative
        image[:, w:] *= 0
    got = ours.permute(0, 2, 3, 1).contiguous().numpy()
    assert np.array_equal(got.view(np.int32), expected.view(np.int32))
    assert ours.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_pixels_are_not_changed_and_take_gradients() -> None:
    pixels = torch.full((1, 4, 5, 3), 200.0).permute(0, 3, 1, 2).requires_grad_()
    normalized(pixels, torch.tensor([[3, 4]])).sum().backward()
    assert (pixels == 200).all()
    expected = (1 / STD)[None, :, None, None].repeat(1, 1, 4, 5)
    expected[:, :, 3:] = expected[..., 4:] = 0
    torch.testing.assert_close(pixels.grad, expected)
