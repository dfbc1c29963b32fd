"""The convolution with its norm, against torch's own layers one after another; how norms fold and freeze."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.config import Norm
from rcnn.models.inference import fold_pairs
from rcnn.models.layers import (
    AffineBatchNorm2d,
    Conv2d,
    FrozenBatchNorm2d,
    SyncBatchNorm2d,
    build_norm,
    fused_by_onednn,
)
from rcnn.runtime.processes import Processes
from tests.narrow import present
from tests.unit.training.process_runs import in_processes


class OtherBatchNorm2d(nn.BatchNorm2d):
    """A subclass, which may compute something else."""


@pytest.mark.parametrize(
    ("norm", "folded"),
    [(nn.BatchNorm2d, True), (FrozenBatchNorm2d, True), (AffineBatchNorm2d, True), (OtherBatchNorm2d, False)],
)
def test_only_known_norms_are_folded_into_a_pair(norm: Callable[[int], nn.Module], folded: bool) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4)).eval()
    for name, value in layers[1].state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(4) + (0.5 if name == "running_var" else 0))
    images = torch.rand(1, 3, 5, 5)
    expected = layers(images)
    fold_pairs(layers)
    assert isinstance(layers[1], nn.Identity) == folded
    torch.testing.assert_close(layers(images), expected)


class Reversed(nn.Sequential):
    """Calls its layers from the last to the first."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        for layer in reversed(list(self)):
            input = layer(input)
        return input


class TwoNorms(nn.Module):
    """One convolution before two norms, as in heads that share layers between levels."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Sequential(conv, nn.BatchNorm2d(4))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


@pytest.mark.parametrize(
    "make",
    [
        TwoNorms,
        lambda: Reversed(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
    ids=["shared", "reversed", "no affine", "no statistics"],
)
def test_folding_never_changes_what_a_network_computes(make: Callable[[], nn.Module]) -> None:
    network = disturbed(make()).eval()
    images = torch.rand(1, 4, 5, 5)
    expected = network(images)
    fold_pairs(network)
    torch.testing.assert_close(network(images), expected)


NORMS: tuple[Norm, ...] = ("frozen_bn", "bn", "sync_bn", "gn", "ln", "none")
M = TypeVar("M", bound=nn.Module)


def disturbed(module: M, seed: int = 0) -> M:
    """Random scales, shifts and statistics; a new norm would be an identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            if name in {"weight", "running_var"} and value.ndim == 1:
                value.data.uniform_(0.5, 1.5, generator=generator)
            elif name in {"bias", "running_mean"}:
                value.data.normal_(0, 0.3, generator=generator)
    return module


def by_torch(conv: Conv2d, x: Tensor, *, training: bool) -> Tensor:
    """What `conv` should compute, by functions of torch, one after another."""
    y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.norm_after_relu:
        y = y.relu()
    norm = conv.norm
    if isinstance(norm, nn.GroupNorm):
        y = F.group_norm(y, 32, norm.weight, norm.bias, norm.eps)
    elif isinstance(norm, nn.LayerNorm):
        mean, variance = y.mean(1, keepdim=True), y.var(1, keepdim=True, unbiased=False)
        y = (y - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    elif norm is not None:
        trained = training and not isinstance(norm, FrozenBatchNorm2d)
        mean, variance = present(norm.running_mean).clone(), present(norm.running_var).clone()
        y = F.batch_norm(y, mean, variance, norm.weight, norm.bias, training=trained, eps=norm.eps)
    return y.relu() if conv.relu and not conv.norm_after_relu else y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_after_relu", [False, True])
@pytest.mark.parametrize("bias", [None, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_convolution_equals_torchs_layers(
    norm: Norm, bias: bool | None, norm_after_relu: bool, training: bool
) -> None:
    torch.manual_seed(0)
    conv = Conv2d(6, 64, 3, stride=2, norm=norm, bias=bias, relu=True, norm_after_relu=norm_after_relu, eps=1e-3)
    disturbed(conv).train(training)
    x = torch.randn(2, 6, 9, 11, requires_grad=True)
    expected = by_torch(conv, x, training=training)
    push = torch.randn_like(expected)
    parameters = [x, *conv.parameters()]
    wanted_gradients = torch.autograd.grad((expected * push).sum(), parameters)
    found = conv(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad((found * push).sum(), parameters), wanted_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_dilation_and_groups_keep_the_size() -> None:
    torch.manual_seed(0)
    conv = Conv2d(64, 64, 3, dilation=2, groups=32)
    x = torch.randn(1, 64, 13, 8)
    assert conv(x).shape == x.shape
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2, groups=32))


@pytest.mark.parametrize("norm", NORMS)
def test_there_is_a_bias_where_there_is_no_norm_by_default(norm: Norm) -> None:
    assert (Conv2d(4, 32, 1, norm=norm).bias is not None) == (norm == "none")
    assert Conv2d(4, 32, 1, norm=norm, bias=True).bias is not None
    assert Conv2d(4, 32, 1, norm=norm, bias=False).bias is None


@pytest.mark.parametrize("bias", [None, True])
@pytest.mark.parametrize("norm", NORMS)
def test_folding_keeps_the_values_and_removes_every_norm_that_is_fixed(norm: Norm, bias: bool | None) -> None:
    torch.manual_seed(0)
    conv = disturbed(Conv2d(5, 32, 3, norm=norm, bias=bias, relu=True)).eval()
    x = torch.randn(2, 5, 7, 7)
    expected = conv(x)
    conv.fold_norm()
    assert (conv.norm is None) == (norm not in {"gn", "ln"})
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


def test_a_norm_after_the_relu_is_not_folded() -> None:
    conv = disturbed(Conv2d(5, 32, 3, norm="frozen_bn", relu=True, norm_after_relu=True))
    x = torch.randn(2, 5, 7, 7)
    expected = conv(x)
    conv.fold_norm()
    assert conv.norm is not None
    assert torch.equal(conv(x), expected)


def test_trained_scale_and_shift_of_fixed_statistics_have_gradients_and_the_same_names() -> None:
    fixed, trained = Conv2d(3, 32, 1, norm="frozen_bn"), Conv2d(3, 32, 1, norm="frozen_bn", trained_affine=True)
    assert set(fixed.state_dict()) == set(trained.state_dict())
    assert isinstance(trained.norm, AffineBatchNorm2d)
    trained.train()(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert trained.norm.weight.grad is not None
    assert float(trained.norm.weight.grad.abs().sum()) > 0
    assert float(present(trained.norm.bias.grad).abs().sum()) > 0
    assert torch.equal(trained.norm.running_mean, torch.zeros(32))
    assert [name for name, _ in fixed.named_parameters()] == ["weight"]


def test_channels_that_make_no_32_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of 32 channels, got 48"):
        build_norm("gn", 48)
    with pytest.raises(ValueError, match="got 16"):
        build_norm("gn", 16)


def test_a_synchronised_norm_alone_is_batch_norm() -> None:
    torch.manual_seed(0)
    mine, theirs = SyncBatchNorm2d(8), nn.BatchNorm2d(8)
    for _ in range(3):
        x = 3 * torch.randn(4, 8, 5, 5) + 1
        torch.testing.assert_close(mine(x), theirs(x), atol=1e-6, rtol=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value)


def test_torchs_synchronized_batch_norm_runs_on_ours() -> None:
    """On CUDA with several processes its forward is called with our module; with one process it computes the same."""
    mine, theirs, x = SyncBatchNorm2d(8), nn.BatchNorm2d(8), torch.randn(3, 8, 5, 5)
    found = nn.SyncBatchNorm.forward(cast("nn.SyncBatchNorm", mine), x)
    torch.testing.assert_close(found, theirs(x))
    torch.testing.assert_close(mine.running_var, theirs.running_var)


def synchronized(processes: Processes, batch: Tensor, push: Tensor) -> dict[str, Tensor]:
    """The output, the gradient and the statistics of this process: of one image here, of two there."""
    torch.manual_seed(0)
    norm = disturbed(SyncBatchNorm2d(4))
    own = slice(1) if processes.is_first else slice(1, 3)
    x = batch[own].clone().requires_grad_()
    y = norm(x)
    (y * push[own]).sum().backward()
    return {"y": y.detach(), "x": present(x.grad), **norm.state_dict()}


def test_two_processes_normalise_by_their_common_batch(tmp_path: Path) -> None:
    torch.manual_seed(1)
    batch, push = 5 * torch.randn(3, 4, 6, 6) + 2, torch.randn(3, 4, 6, 6)
    found = in_processes(2, tmp_path, partial(synchronized, batch=batch, push=push))
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    disturbed(norm)
    x = batch.clone().requires_grad_()
    expected = norm(x)
    (expected * push).sum().backward()
    torch.testing.assert_close(torch.cat([part["y"] for part in found]), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part["x"] for part in found]), x.grad, atol=1e-4, rtol=1e-4)
    for part in found:
        torch.testing.assert_close(part["running_mean"], norm.running_mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(part["running_var"], norm.running_var, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "more", "less"), [(7, 3, 2), (3, 1, 0)])
@pytest.mark.parametrize("size", [(9, 12), (16, 7)])
def test_tensorpacks_borders(kernel: int, more: int, less: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, *size)
    for padding, before, after in (("align", more, less), ("tensorflow", less, more)):
        conv = Conv2d(3, 8, kernel, stride=2, padding=padding)
        height, width = size
        framed = torch.zeros(1, 3, height + before + after, width + before + after)
        framed[:, :, before : before + height, before : before + width] = x
        expected = F.conv2d(framed, conv.weight, conv.bias, stride=2)
        assert expected.shape[2:] == (height // 2, width // 2)
        torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
        plain = Conv2d(3, 8, kernel, padding=padding)  # without a stride there is nothing to place
        torch.testing.assert_close(plain(x), F.conv2d(x, plain.weight, plain.bias, padding=kernel // 2))


def test_a_strided_1x1_leaves_the_last_row_and_column_out_where_the_borders_are_tensorpacks() -> None:
    x = torch.randn(1, 4, 9, 6)
    conv = Conv2d(4, 8, 1, stride=2, padding="align")
    expected = F.conv2d(x[:, :, :8, :5], conv.weight, conv.bias, stride=2)
    assert expected.shape[2:] == (4, 3)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("kernel", "options"), [(1, {}), (3, {"stride": 2}), (3, {"dilation": 2, "groups": 2}), (7, {"padding": "align"})]
)
def test_fused_layers_equal_separate_ones(
    kernel: int, options: dict[str, Any], relu: bool, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv = Conv2d(8, 16, kernel, relu=relu, bias=True, **options)
    conv.to(dtype).to(memory_format=layout)
    images = torch.randn(2, 8, 20, 26).to(dtype, memory_format=layout)
    assert not fused_by_onednn(images)  # gradients are on
    plain = conv(images)
    residual = torch.randn_like(plain)
    summed = conv(images, plus=residual)
    expected = F.conv2d(images, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.border is None:
        expected = expected + residual
        torch.testing.assert_close(summed, expected.relu() if relu else expected)
    with torch.no_grad():
        supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        assert fused_by_onednn(images) == (layout == torch.channels_last and supported)
        torch.testing.assert_close(conv(images), plain)
        torch.testing.assert_close(
            conv(images, plus=residual.clone()),
            summed,
            atol=3e-2 if dtype != torch.float32 else 1e-5,
            rtol=1e-2 if dtype != torch.float32 else 1e-5,
        )
        for rows in (0, 1):
            empty = conv(images[:rows], plus=residual[:rows].clone())
            assert empty.shape == summed[:rows].shape


def test_a_norm_comes_before_the_residual_and_the_relu_after_it() -> None:
    torch.manual_seed(0)
    conv = Conv2d(4, 32, 3, norm="gn", relu=True)
    images, residual = torch.randn(1, 4, 6, 6), torch.randn(1, 32, 6, 6)
    expected = F.group_norm(F.conv2d(images, conv.weight, padding=1), 32) + residual
    torch.testing.assert_close(conv(images, plus=residual), expected.relu())
