"""The convolution whose weight gradient is computed from copies: equal to torch's, and used only where it is faster."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.models import convolution
from rcnn.models.convolution import ConvolutionWithCopies, convolve

ONE = (1, 1)


@pytest.fixture
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without AVX-512, and for maps of any size."""
    monkeypatch.setattr(convolution, "lacks_avx512", lambda: True)
    monkeypatch.setattr(convolution, "LEAST_POSITIONS", 0)
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 0)


def layers(dtype: torch.dtype = torch.float32, kernel: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Maps in channels-last layout, a weight and a bias, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 6, 5), (4, 3, kernel, kernel), (4,))
    input, weight, bias = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    input = input.contiguous(memory_format=torch.channels_last)
    return input.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_equal_finite_differences(dilation: int) -> None:
    around = [dilation, dilation]

    def function(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ConvolutionWithCopies.apply(input, weight, bias, around, around)

    assert torch.autograd.gradcheck(function, layers(torch.float64))


@pytest.mark.parametrize("fixed", ["input", "bias", "no bias"])
def test_values_and_gradients_equal_torchs(without_avx512: None, fixed: str) -> None:
    found, expected = list[Tensor | None](), list[Tensor | None]()
    for function, dtype, results in ((convolve, torch.float32, found), (F.conv2d, torch.float64, expected)):
        input, weight, bias = layers()
        input, weight, bias = (tensor.detach().to(dtype).requires_grad_() for tensor in (input, weight, bias))
        input.requires_grad_(fixed != "input")
        bias.requires_grad_(fixed == "input")
        y = function(input, weight, None if fixed == "no bias" else bias, ONE, ONE, ONE, 1)
        assert ("ConvolutionWithCopies" in str(y.grad_fn)) == (function is convolve)
        (y * torch.arange(y.numel(), dtype=dtype).view(y.shape).cos()).sum().backward()
        results += [y, input.grad, weight.grad, bias.grad]
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["stride", "groups", "1x1", "layout", "frozen", "no_grad", "autocast", "AVX-512"])
def test_torchs_convolution_elsewhere(without_avx512: None, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    input, weight, bias = layers(kernel=1 if case == "1x1" else 3)
    if case == "layout":
        input = input.detach().contiguous().requires_grad_()
    if case == "frozen":
        weight.requires_grad_(False)
    if case == "groups":
        weight = weight.detach()[:3, :1].requires_grad_()
        bias = bias.detach()[:3]
    if case == "AVX-512":
        monkeypatch.setattr(convolution, "lacks_avx512", lambda: False)
    stride = (2, 2) if case == "stride" else ONE
    with torch.set_grad_enabled(case != "no_grad"), torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        y = convolve(input, weight, bias, stride, ONE, ONE, 3 if case == "groups" else 1)
    assert "ConvolutionWithCopies" not in str(y.grad_fn)
