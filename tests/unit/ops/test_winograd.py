"""Winograd's convolution against torch's in float64, and where it is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rcnn.models import layers
from rcnn.models.layers import Conv2d
from rcnn.ops import winograd as module
from rcnn.ops.winograd import winograd, winograd_is_faster


def inputs(count: int, channels: int, kernels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, channels, height, width, generator=generator)
    weight = torch.randn(kernels, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    return maps.contiguous(memory_format=torch.channels_last), weight, torch.randn(kernels, generator=generator)


SHAPES = [
    (1, 3, 5, 1, 1),
    (2, 4, 3, 4, 4),
    (1, 5, 6, 5, 7),
    (3, 6, 2, 9, 18),
    (1, 2, 2, 1, 23),
    (0, 4, 5, 6, 6),
    (2, 64, 32, 21, 26),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strip_bytes", [1, 20_000, 1 << 23])
def test_maps_equal_a_convolution_in_float64(
    shape: tuple[int, ...], strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRIP_BYTES", strip_bytes)
    maps, weight, bias = inputs(*shape)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    without_bias = winograd(maps.double(), weight.double(), None)
    torch.testing.assert_close(without_bias + bias.double()[:, None, None], expected, atol=1e-12, rtol=1e-12)
    found = winograd(maps, weight.contiguous(memory_format=torch.channels_last), bias, relu=True)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected.relu(), atol=3e-5, rtol=0)


def test_the_error_is_that_of_float32() -> None:
    maps, weight, bias = inputs(1, 256, 256, 24, 24)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    error = (winograd(maps, weight, bias) - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    usual = (F.conv2d(maps, weight, bias, padding=1) - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert error < 3e-6
    assert error < 10 * usual


def test_a_batch_gives_what_its_maps_give_alone() -> None:
    maps, weight, bias = inputs(3, 32, 48, 18, 30)
    together = winograd(maps, weight, bias)
    for place, one in enumerate(maps):
        assert torch.equal(winograd(one[None], weight, bias)[0], together[place])


def test_maps_and_weights_are_not_changed_and_nothing_is_kept() -> None:
    maps, weight, bias = inputs(1, 4, 4, 8, 8)
    copies = [tensor.clone() for tensor in (maps, weight, bias)]
    first = winograd(maps, weight, bias)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((maps, weight, bias), copies, strict=True))
    weight.mul_(2)  # the weights are transformed at each call, so changed weights are used
    torch.testing.assert_close(winograd(maps, weight, bias) - bias[:, None, None], 2 * (first - bias[:, None, None]))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on a CPU with AVX2 alone, for layers of any size; it counts the calls in layers."""
    calls: list[int] = []

    def counting(input: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
        calls.append(1)
        return winograd(input, weight, bias, relu=relu)

    monkeypatch.setattr(layers, "winograd", counting)
    monkeypatch.setattr(module, "has_avx2", lambda: True)
    monkeypatch.setattr(module, "LEAST_CHANNELS", 4)
    monkeypatch.setattr(module, "LEAST_PIXELS", 30)
    return calls


@pytest.mark.parametrize("relu", [False, True])
def test_a_layer_uses_it_only_in_prediction_and_where_it_is_faster(used: list[int], relu: bool) -> None:
    maps, _, _ = inputs(2, 4, 6, 6, 7)
    layer = Conv2d(4, 6, 3, relu=relu, winograd=True)
    assert layer(maps).requires_grad
    assert not used
    with torch.no_grad():
        expected = F.conv2d(maps, layer.weight, layer.bias, padding=1)
        expected = expected.relu() if relu else expected
        torch.testing.assert_close(layer(maps), expected, atol=1e-5, rtol=1e-5)
        assert len(used) == 1
        layer(maps.contiguous())
        layer(maps[:, :, :5, :5])
        Conv2d(4, 6, 3)(maps)
        Conv2d(4, 6, 1, winograd=True)(maps)
        Conv2d(4, 6, 3, stride=2, winograd=True)(maps)
        Conv2d(4, 6, 3, dilation=2, winograd=True)(maps)
        Conv2d(4, 6, 3, groups=2, winograd=True)(maps)
        Conv2d(4, 3, 3, winograd=True)(maps)
        layer(maps, plus=torch.zeros_like(expected))
        assert len(used) == 1


@torch.no_grad()
def test_it_is_not_used_in_graphs_or_with_other_types(used: list[int]) -> None:
    maps, weight, _ = inputs(1, 4, 6, 6, 7)
    assert winograd_is_faster(maps, weight)
    assert not winograd_is_faster(maps.bfloat16(), weight.bfloat16())
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert not winograd_is_faster(fake.from_tensor(maps), weight)
    layer = Conv2d(4, 6, 3, winograd=True)
    program = torch.export.export(layer, (maps,))
    assert "convolution" in str(program.graph) or "conv2d" in str(program.graph)
    assert not used
