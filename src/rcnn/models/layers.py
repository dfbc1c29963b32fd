"""The convolution that all networks use, with its norm and ReLU. A norm with fixed statistics can be folded into it."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.config import Norm
from rcnn.models.convolution import convolve
from rcnn.models.heads.region_norm import SyncBatchNorm2d, masked_batch_norm
from rcnn.ops.winograd import winograd, winograd_is_faster

GROUPS = 32  # of group norm (Wu and He 2018)
Padding = Literal["symmetric", "align", "tensorflow"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics, scale and shift; the same buffers as in torchvision and Detectron2."""

    weight: Tensor  # (C,), like the other three
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_load_state_dict_pre_hook(_without_count)

    @override
    def forward(self, x: Tensor) -> Tensor:
        scale, shift = affine_of(self)
        return x * scale[:, None, None] + shift[:, None, None]

    @override
    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def _without_count(_: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Remove `num_batches_tracked`, which a trained batch norm saves and a frozen one does not need, from `state`."""
    state.pop(f"{prefix}num_batches_tracked", None)


class AffineBatchNorm2d(FrozenBatchNorm2d):
    """Batch norm with fixed statistics and trained scale and shift (tensorpack's FreezeBN)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        del self.weight, self.bias
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps (B, C, H, W), at each position."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NormLayer = FrozenBatchNorm2d | nn.BatchNorm2d | nn.GroupNorm | ChannelNorm


def build_norm(norm: Norm, channels: int, eps: float = 1e-5, *, trained_affine: bool = False) -> NormLayer | None:
    """The norm layer called `norm`, None for "none". Raises ValueError if `channels` cannot be divided into groups."""
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
                    f"norm=gn needs a multiple of {GROUPS} channels, got {channels}; choose another width, or norm=bn"
                )
            return nn.GroupNorm(GROUPS, channels, eps=eps)
        case "ln":
            return ChannelNorm(channels, eps=eps)
    raise ValueError(f"unknown norm {norm!r}; expected frozen_bn, bn, sync_bn, gn, ln or none")


def is_fixed(norm: nn.Module | None) -> bool:
    """Whether `norm` is a batch norm with fixed statistics: one scale and one shift per channel."""
    return is_frozen(norm) or (isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training)


def is_frozen(norm: nn.Module | None) -> bool:
    """Whether `norm` is a frozen batch norm, of this library or of another one (in the user's own modules)."""
    return isinstance(norm, FrozenBatchNorm2d) or type(norm).__name__ == "FrozenBatchNorm2d"


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that a batch norm with fixed statistics applies."""
    if not is_frozen(norm) and not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        raise ValueError(f"{type(norm).__name__} has no fixed statistics; expected a batch norm")
    norm = cast("FrozenBatchNorm2d | nn.BatchNorm2d", norm)
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics has no fixed scale and shift; set running statistics")
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class Conv2d(nn.Conv2d):
    """A convolution with "same" padding, then optionally a norm, a residual and ReLU (or ReLU, then the norm).

    A norm with fixed statistics is multiplied into the weights at each call. That saves two passes over the
    activations, and memory for the backward pass. In prediction on a CPU, if there is no norm, oneDNN computes the
    residual and the ReLU within the convolution, or Winograd's algorithm computes it with fewer multiplications.
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
        bias: bool | None = None,  # None: True without a norm, False with one
        norm: Norm = "none",
        eps: float = 1e-5,
        trained_affine: bool = False,  # of frozen_bn
        relu: bool = False,
        norm_after_relu: bool = False,  # tensorpack's heads with group norm
        padding: Padding = "symmetric",  # of strided convolutions, see `border`
        winograd: bool = False,  # may be computed by `ops/winograd.py`; its rounding adds up in a chain of layers
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
        self.relu, self.norm_after_relu, self.winograd = relu, norm_after_relu, winograd
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(self)

    @override
    def forward(self, input: Tensor, valid: Tensor | None = None, *, plus: Tensor | None = None) -> Tensor:
        """Maps (N, C, h, w) of `input` (N, C', H, W).

        Rows where not `valid` (N,) do not count in batch norm's statistics. `plus` (N, C, h, w) is added after the
        norm, before the ReLU; in prediction it may be overwritten.
        """
        if self.border is not None:
            input = F.pad(input, self.border)
        if self.norm is None and fused_by_onednn(input):
            return self.fused(input, plus)
        if self.norm_after_relu:
            x = super().forward(input)
            x = self.normed(F.relu_(x) if self.relu else x, valid)
            return x if plus is None else x + plus
        if is_fixed(self.norm):
            weight, bias = self.folded()
            x = self._conv_forward(input, weight, bias)
        else:
            x = self.normed(super().forward(input), valid)
        x = x if plus is None else x + plus
        return F.relu_(x) if self.relu else x

    @override
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution alone; torch's forward calls it."""
        padding = cast("tuple[int, ...]", self.padding)
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def fused(self, input: Tensor, plus: Tensor | None) -> Tensor:
        """The convolution, the addition of `plus` and the ReLU; `plus` is overwritten."""
        ops = torch.ops.mkldnn
        if self.winograd and plus is None and self.is_plain() and winograd_is_faster(input, self.weight):
            return winograd(input, self.weight, self.bias, relu=self.relu)
        relu = "relu" if self.relu else "none"
        shape = (self.padding, self.stride, self.dilation, self.groups)
        if plus is None:
            return ops._convolution_pointwise(input, self.weight, self.bias, *shape, relu, [], "")
        return ops._convolution_pointwise_.binary(
            plus, input, self.weight, self.bias, *shape, "add", 1.0, relu if self.relu else None, [], None
        )

    def is_plain(self) -> bool:
        """Whether each output pixel depends on its 3x3 neighbours, and on all channels."""
        return (self.kernel_size, self.stride, self.dilation, self.padding, self.groups) == (
            (3, 3),
            (1, 1),
            (1, 1),
            (1, 1),
            1,
        )

    def normed(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The norm of maps `x` (N, C, H, W); rows where not `valid` (N,) do not count in batch norm's statistics."""
        if isinstance(self.norm, nn.BatchNorm2d) and self.norm.training and valid is not None:
            return masked_batch_norm(self.norm, x, valid)
        return x if self.norm is None else self.norm(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of one convolution that computes the convolution and its norm with fixed statistics."""
        if self.norm is None:
            raise ValueError("the convolution has no norm to fold")
        scale, shift = affine_of(self.norm)
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Fold a norm with fixed statistics into weight and bias.

        Group norm and layer norm depend on the input and are kept, as is a norm after the ReLU.
        """
        if self.norm is None or self.norm_after_relu or isinstance(self.norm, nn.GroupNorm | nn.LayerNorm):
            return
        weight, bias = self.folded()
        trained = self.weight.requires_grad
        self.weight = nn.Parameter(weight, requires_grad=trained)
        self.bias = nn.Parameter(bias.clone(), requires_grad=trained)
        self.norm = None


def fused_by_onednn(input: Tensor) -> bool:
    """Whether oneDNN can fuse a residual and ReLU with a convolution of `input`.

    That needs a CPU tensor in channels-last layout, no gradients and no compiled graph.
    """
    return (
        input.device.type == "cpu"
        and not torch.compiler.is_compiling()  # first: torch.export adds a guard for the layout
        and not torch.is_grad_enabled()
        and input.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and (input.dtype == torch.float32 or (input.dtype == torch.bfloat16 and onednn_has_bfloat16()))
    )


@cache
def onednn_has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU; elsewhere its fused convolution raises an error."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def border(kernel: int, stride: int, padding: Padding) -> tuple[int, int, int, int] | None:
    """Padding (left, right, top, bottom) for `F.pad` before a strided layer; None: PyTorch's symmetric padding.

    "align" pads one more pixel on the left and at the top (3 and 2 for a 7x7 kernel, 1 and 0 for 3x3), "tensorflow" on
    the right and at the bottom. With both, n pixels become n // 2. For the same result, the last row and column are
    removed before a 1x1 kernel (tensorpack's AlignPadding and TF_PAD_MODE).
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
    """Initialize weights from a normal distribution with standard deviation `std`, biases with zero (R-CNN papers)."""
    nn.init.normal_(layer.weight, std=std)
    zero_bias(layer)


def zero_bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Set biases to zero, if the layer has them."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
