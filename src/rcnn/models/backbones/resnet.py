"""ResNet (He et al. 2016) with bottleneck blocks: stem, res2, res3, res4, res5 at strides 4, 4, 8, 16, 32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict, override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import Norm, ResNetConfig
from rcnn.models.layers import Conv2d, Padding, border

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # blocks of res2, res3, res4, res5


class ConvOptions(TypedDict, closed=True):
    """Options that all convolutions of a network share."""

    norm: Norm
    eps: float
    trained_affine: bool
    padding: Padding


def conv_options(config: ResNetConfig) -> ConvOptions:
    """The part of `config` that concerns its convolutions."""
    return {
        "norm": config.norm,
        "eps": config.norm_eps,
        "trained_affine": config.trained_affine,
        "padding": config.padding,
    }


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each with stride 2."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 64, 7, stride=2, relu=True, **conv_options(config))
        self.border = border(3, 2, config.padding)
        self.padding = 0 if self.border is not None or config.stem_pool == "unpadded_ceil" else 1
        self.ceil = config.stem_pool != "padded"

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.border is not None:
            x = F.pad(x, self.border)  # after a ReLU, zeros cannot change a maximum
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=self.padding, ceil_mode=self.ceil)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, with a projection where the shape changes (figure 5, right)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int, stride: int, dilation: int, config: ResNetConfig
    ) -> None:
        super().__init__()
        options = conv_options(config)
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.shortcut = (
            Conv2d(in_channels, out_channels, 1, stride=stride, **options) if in_channels != out_channels else None
        )
        self.conv1 = Conv2d(in_channels, width, 1, stride=first, relu=True, **options)
        self.conv2 = Conv2d(
            width, width, 3, stride=second, dilation=dilation, groups=config.groups, relu=True, **options
        )
        self.conv3 = Conv2d(width, out_channels, 1, relu=True, **options)
        self._init_as_identity(config.norm)

    def _init_as_identity(self, norm: Norm) -> None:
        """Initialize the block so that it returns its shortcut (Goyal et al. 2017; Wu and He 2018, section 4.1).

        Frozen norms are not changed: their scales come from a checkpoint, and without one they would stay 0.
        """
        if norm == "none":
            nn.init.zeros_(self.conv3.weight)
        elif norm != "frozen_bn" and self.conv3.norm is not None:
            nn.init.zeros_(self.conv3.norm.weight)

    @override
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, valid)
        return self.conv3(self.conv2(self.conv1(x, valid), valid), valid, plus=shortcut)


def stage_stride(number: int, config: ResNetConfig) -> int:
    """Stride of stage `number`: 1 for res2, which follows the stem's pooling, and for a dilated res5; else 2."""
    if number == 5 and config.res5_dilation == 2:
        return 1
    return {2: 1, 3: 2, 4: 2, 5: config.res5_stride}[number]


def build_stage(number: int, config: ResNetConfig) -> nn.Sequential:
    """The blocks of stage `number` (2 to 5): (N, C/2, h, w) -> (N, C, h/2, w/2), with C from 256 to 2048."""
    out_channels = 256 * 2 ** (number - 2)
    in_channels = 64 if number == 2 else out_channels // 2
    blocks = []
    for index in range((config.blocks or BLOCKS[config.depth])[number - 2]):
        blocks.append(
            Bottleneck(
                in_channels if index == 0 else out_channels,
                out_channels,
                width=config.groups * config.width_per_group * 2 ** (number - 2),
                stride=stage_stride(number, config) if index == 0 else 1,
                dilation=config.res5_dilation if number == 5 else 1,
                config=config,
            )
        )
    return nn.Sequential(*blocks)


class ResNet(Backbone):
    """Images (B, 3, H, W) -> {"c2": (B, 256, H/4, W/4), "c3": (B, 512, H/8, W/8), ...} for the stages built."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = Stem(config)
        self.stages = config.stages
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        stride = 4
        for number in config.stages:
            self.add_module(f"res{number}", build_stage(number, config))
            stride *= stage_stride(number, config)
            self.channels[f"c{number}"], self.strides[f"c{number}"] = 256 * 2 ** (number - 2), stride
        self.freeze([self.stem, *(getattr(self, f"res{n}") for n in self.stages)][: config.frozen_stages])

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        features = {}
        for number in self.stages:
            x = getattr(self, f"res{number}")(x)
            features[f"c{number}"] = x
        return features
