"""The convolution of every network here: one that owns its norm, and can fold it away."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torchvision.ops import FrozenBatchNorm2d
from typing_extensions import override

from rcnn.models.config import Norm
from rcnn.models.heads.region_norm import norm_of_real

GROUPS = 32  # of group norm (Wu and He 2018)
Padding = Literal["symmetric", "align", "tensorflow"]


class AffineBatchNorm2d(FrozenBatchNorm2d):
    """Batch norm of fixed statistics whose scale and shift are trained (tensorpack's FreezeBN)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        del self.weight, self.bias
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch norm of the batch over all processes; of one process, what `nn.BatchNorm2d` is.

    torch has this for accelerators only: on the CPU the sums are added up here, for several processes without a GPU.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        together = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not together or input.device.type != "cpu" or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        channels = self.num_features
        count = input.new_tensor([input.numel() / channels])
        sums = torch.cat([input.sum((0, 2, 3)), input.square().sum((0, 2, 3)), count])
        sums = all_reduce(sums)  # differentiable
        mean, square = sums[:channels] / sums[-1], sums[channels:-1] / sums[-1]
        variance = square - mean.square()
        with torch.no_grad():
            momentum = self.momentum or 0.0
            unbiased = variance * sums[-1] / (sums[-1] - 1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return input * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps (B, C, H, W), at each place of its own."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NormLayer = FrozenBatchNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm | nn.GroupNorm | ChannelNorm


def build_norm(norm: Norm, channels: int, eps: float = 1e-5, *, trained_affine: bool = False) -> NormLayer | None:
    """The norm layer called `norm`, None for "none"; a ValueError where `channels` cannot be put into groups."""
    match norm:
        case "none":
            return None
        case "frozen_bn":
            return AffineBatchNorm2d(channels, eps=eps) if trained_affine else FrozenBatchNorm2d(channels, eps=eps)
        case "bn":
            return nn.BatchNorm2d(channels, eps=eps)
        case "sync_bn":
            return SyncBatchNorm2d(channels, eps=eps)
        case "gn":
            if channels % GROUPS:
                raise ValueError(
                    f"norm=gn makes {GROUPS} groups of the channels, and {channels} channels are no multiple of that: "
                    "choose a width that is, or norm=bn"
                )
            return nn.GroupNorm(GROUPS, channels, eps=eps)
        case "ln":
            return ChannelNorm(channels, eps=eps)
    raise ValueError(f"no norm is called {norm!r}: want frozen_bn, bn, sync_bn, gn, ln or none")


def is_fixed(norm: nn.Module | None) -> bool:
    """Whether `norm` is one scale and one shift a channel, whatever its input: batch norm of fixed statistics."""
    batch = isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training
    return isinstance(norm, FrozenBatchNorm2d) or batch


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that a batch norm with fixed statistics amounts to."""
    if not isinstance(norm, FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm):
        raise ValueError(f"{type(norm).__name__} has no fixed statistics")
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics amounts to no fixed scale and shift")
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class Conv2d(nn.Conv2d):
    """A convolution, "same" padded, then its norm, then optionally ReLU (or ReLU, then the norm).

    A norm of fixed statistics is multiplied into the kernel at each call: a few thousand multiplications in place of
    two passes over the activations, which need not be kept for the backward pass either.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,  # None: exactly where there is no norm
        norm: Norm = "none",
        eps: float = 1e-5,
        trained_affine: bool = False,  # of frozen_bn
        relu: bool = False,
        norm_after_relu: bool = False,  # tensorpack's heads with group norm
        padding: Padding = "symmetric",  # of strided convolutions; the other two give sides rounded down
    ) -> None:
        zeros = border(kernel, stride, padding)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2) if zeros is None else 0,
            dilation=dilation,
            groups=groups,
            bias=norm == "none" if bias is None else bias,
        )
        self.border = zeros
        self.norm = build_norm(norm, out_channels, eps, trained_affine=trained_affine)
        self.relu, self.norm_after_relu = relu, norm_after_relu
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(self)

    @override
    def forward(self, input: Tensor, real: Tensor | None = None) -> Tensor:
        if self.border is not None:
            input = F.pad(input, self.border)
        if self.norm is None:
            x = super().forward(input)
            return F.relu_(x) if self.relu else x
        if self.norm_after_relu:
            x = super().forward(input)
            return self.normed(F.relu_(x) if self.relu else x, real)
        if is_fixed(self.norm):
            weight, bias = self.folded()
            x = F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        else:
            x = self.normed(super().forward(input), real)
        return F.relu_(x) if self.relu else x

    def normed(self, x: Tensor, real: Tensor | None) -> Tensor:
        """The norm of maps `x` (N, C, H, W); batch norm learns from those that are `real` (N,), or from all."""
        if isinstance(self.norm, nn.BatchNorm2d | nn.SyncBatchNorm) and self.norm.training and real is not None:
            return norm_of_real(self.norm, x, real)
        return x if self.norm is None else self.norm(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that compute convolution and norm, whose statistics are fixed, in one."""
        if self.norm is None:
            raise ValueError("the convolution has no norm to fold")
        scale, shift = affine_of(self.norm)
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Replace a norm with fixed statistics by the weight and bias that compute the same.

        Group and layer norm, which depend on the image, stay, and so does a norm that follows the ReLU.
        """
        if self.norm is None or self.norm_after_relu or isinstance(self.norm, nn.GroupNorm | nn.LayerNorm):
            return
        weight, bias = self.folded()
        trained = self.weight.requires_grad
        self.weight = nn.Parameter(weight, requires_grad=trained)
        self.bias = nn.Parameter(bias.clone(), requires_grad=trained)
        self.norm = None


def border(kernel: int, stride: int, padding: Padding) -> tuple[int, int, int, int] | None:
    """Zeros (left, right, top, bottom) for `F.pad` before what is strided; None: "same" padding, as PyTorch has it.

    "align" has one more on the left and at the top (3 and 2 for a 7x7, 1 and 0 for a 3x3), "tensorflow" on the right
    and at the bottom. Either way n pixels become n // 2: a 1x1 kernel, which would make n / 2 rounded up of them, is
    given an image without its last row and column (tensorpack's AlignPadding and TF_PAD_MODE).
    """
    if padding == "symmetric" or stride == 1:
        return None
    if stride != 2:
        raise ValueError(f"padding={padding} is defined for stride 2, not {stride}")
    if kernel == 1:
        return 0, -1, 0, -1
    more, less = kernel // 2, kernel // 2 - 1
    return (more, less, more, less) if padding == "align" else (less, more, less, more)


def init_linear(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, std: float) -> None:
    """Weights normal with standard deviation `std`, biases zero: how the R-CNN papers begin their new layers."""
    nn.init.normal_(layer.weight, std=std)
    zero_bias(layer)


def zero_bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Biases zero, where the layer has them."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
