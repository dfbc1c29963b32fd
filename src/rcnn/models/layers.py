"""The convolution of every network here: one that owns its norm, and can fold it away."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen_bn", "bn", "none"]


def build_norm(norm: Norm, channels: int, eps: float) -> FrozenBatchNorm2d | nn.BatchNorm2d | None:
    """The norm layer called `norm`, None for "none"."""
    if norm == "none":
        return None
    return {"frozen_bn": FrozenBatchNorm2d, "bn": nn.BatchNorm2d}[norm](channels, eps=eps)


def affine_of(norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that a batch norm with fixed statistics amounts to."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics amounts to no fixed scale and shift")
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class Conv2d(nn.Conv2d):
    """A convolution, "same" padded, then its norm, then optionally ReLU.

    A frozen norm is multiplied into the kernel at each call: a few thousand multiplications in place of two passes
    over the activations, which need not be kept for the backward pass either.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: Norm = "none",
        eps: float = 1e-5,
        relu: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=norm == "none"
        )
        self.norm = build_norm(norm, out_channels, eps)
        self.relu = relu
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(self)

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.norm, FrozenBatchNorm2d):
            scale, shift = affine_of(self.norm)
            weight = self.weight * scale[:, None, None, None]
            x = F.conv2d(input, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        else:
            x = super().forward(input)
            if self.norm is not None:
                x = self.norm(x)
        return F.relu_(x) if self.relu else x

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Replace a norm with fixed statistics by the weight and bias that compute the same."""
        if self.norm is None:
            return
        scale, shift = affine_of(self.norm)
        self.weight = nn.Parameter(self.weight * scale[:, None, None, None], requires_grad=self.weight.requires_grad)
        self.bias = nn.Parameter(shift.clone(), requires_grad=self.weight.requires_grad)
        self.norm = None


def init_linear(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, std: float) -> None:
    """Weights normal with standard deviation `std`, biases zero: how the R-CNN papers begin their new layers."""
    nn.init.normal_(layer.weight, std=std)
    zero_bias(layer)


def zero_bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Biases zero, where the layer has them."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
