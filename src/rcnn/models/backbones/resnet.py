"""ResNet (He et al. 2016) with bottleneck blocks: stem, res2, res3, res4, res5 at strides 4, 4, 8, 16, 32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.config import ResNetConfig
from rcnn.models.layers import Conv2d, Norm

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # blocks of res2, res3, res4, res5


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each of stride 2."""

    def __init__(self, *, norm: Norm, eps: float) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 64, 7, stride=2, norm=norm, eps=eps, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, added to the input (or to its projection where the shape changes)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, stride_in_1x1: bool, norm: Norm, eps: float
    ) -> None:
        super().__init__()
        width = out_channels // 4
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = (
            Conv2d(in_channels, out_channels, 1, stride=stride, norm=norm, eps=eps)
            if in_channels != out_channels
            else None
        )
        self.conv1 = Conv2d(in_channels, width, 1, stride=first, norm=norm, eps=eps, relu=True)
        self.conv2 = Conv2d(width, width, 3, stride=second, norm=norm, eps=eps, relu=True)
        self.conv3 = Conv2d(width, out_channels, 1, norm=norm, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.conv3(self.conv2(self.conv1(x))) + shortcut)


def build_stage(number: int, config: ResNetConfig) -> nn.Sequential:
    """res`number`, 2 to 5: its first block halves the map (but res2's, which follows the pooling)."""
    out_channels = 256 * 2 ** (number - 2)
    in_channels = 64 if number == 2 else out_channels // 2
    blocks = []
    for index in range(BLOCKS[config.depth][number - 2]):
        blocks.append(
            Bottleneck(
                in_channels if index == 0 else out_channels,
                out_channels,
                stride=2 if index == 0 and number > 2 else 1,
                stride_in_1x1=config.stride_in_1x1,
                norm=config.norm,
                eps=config.norm_eps,
            )
        )
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Images (B, 3, H, W) -> {"c2": (B, 256, H/4, W/4), "c3": (B, 512, H/8, W/8), ...} for the stages built."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = Stem(norm=config.norm, eps=config.norm_eps)
        self.stages = config.stages
        for number in config.stages:
            self.add_module(f"res{number}", build_stage(number, config))
        self.channels = {f"c{n}": 256 * 2 ** (n - 2) for n in config.stages}
        self.strides = {f"c{n}": 2**n for n in config.stages}
        self._freeze(config.frozen_stages)

    def _freeze(self, stages: int) -> None:
        frozen = [self.stem, *(getattr(self, f"res{n}") for n in self.stages)][:stages]
        for module in frozen:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        features = {}
        for number in self.stages:
            x = getattr(self, f"res{number}")(x)
            features[f"c{number}"] = x
        return features
