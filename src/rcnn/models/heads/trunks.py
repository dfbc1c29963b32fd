"""Trunks of the heads: the layers between the pooled features and the last layers.

Their second argument `valid` (N,) says which regions are valid: only these count in the statistics of batch norm.

Letters: N regions, C channels, s side of the pooled map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.fbnet import RegionBlocks, box_blocks, width_of
from rcnn.models.backbones.mobilenet_v1 import RegionMobileNet
from rcnn.models.backbones.resnet import build_stage
from rcnn.models.config import BackboneConfig, BoxHeadConfig, MobileNetV1Config, Norm, ResNetConfig
from rcnn.models.layers import Conv2d
from rcnn.ops.layout import contiguous


class ConvsAndFullyConnected(nn.Module):
    """Regions (N, C, s, s) -> (N, width): convolutions, then fully connected layers with ReLU.

    FPN's head has 2 fully connected layers (Lin et al. 2017), "4conv1fc" 4 convolutions and 1 (Wu and He 2018).
    """

    def __init__(self, *, in_channels: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.convs, self.fcs = config.convs, config.fcs
        channels = add_convs(self, in_channels, config.convs, config.conv_width, config.norm, config.norm_after_relu)
        channels *= config.pooler.size**2
        for number in range(1, config.fcs + 1):
            layer = nn.Linear(channels, config.fc_width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.add_module(f"fc{number}", layer)
            channels = config.fc_width
        self.channels = channels

    @override
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        for number in range(1, self.convs + 1):
            x = self.get_submodule(f"conv{number}")(x, valid)
        x = contiguous(x).flatten(1)
        for number in range(1, self.fcs + 1):
            x = F.relu(self.get_submodule(f"fc{number}")(x))
        return x


class Res5(nn.Module):
    """Regions (N, 1024, 14, 14) -> (N, 2048, 7, 7) by a ResNet's last stage (He et al. 2016, appendix A)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.res5 = build_stage(5, config)
        self.channels = 2048

    @override
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        for block in self.res5:
            x = block(x, valid)
        return x


class Convs(nn.Sequential):
    """The mask and keypoint heads' 3x3 convolutions with ReLU: regions (N, C, s, s) -> (N, width, s, s)."""

    def __init__(
        self, *, in_channels: int, count: int, width: int, norm: Norm = "none", norm_after_relu: bool = False
    ) -> None:
        super().__init__()
        self.channels = add_convs(self, in_channels, count, width, norm, norm_after_relu)

    @override
    def forward(self, input: Tensor, valid: Tensor | None = None) -> Tensor:
        for conv in self:
            input = conv(input, valid)
        return input


BoxTrunk = ConvsAndFullyConnected | Res5 | RegionBlocks | RegionMobileNet
Trunk = Convs | RegionBlocks


def build_box_trunk(config: BoxHeadConfig, in_channels: int, backbone: BackboneConfig) -> BoxTrunk:
    """The layers between the pooled features and the box head's two outputs; `in_channels` are those of the maps."""
    match config.trunk:
        case "res5":
            if not isinstance(backbone, ResNetConfig):
                raise ValueError(f"box.trunk=res5 needs a ResNet; the backbone is {backbone.kind}. Use box.trunk=fc")
            return Res5(backbone)
        case "fbnet":
            return box_blocks(width_of(backbone))
        case "mobilenet_v1":
            return RegionMobileNet(backbone.width if isinstance(backbone, MobileNetV1Config) else 1.0)
        case "fc":
            return ConvsAndFullyConnected(in_channels=in_channels, config=config)


def add_convs(module: nn.Module, channels: int, count: int, width: int, norm: Norm, norm_after_relu: bool) -> int:
    """Add 3x3 convolutions `conv1`, `conv2`, ... with `width` channels, norm and ReLU to `module`.

    Returns the number of output channels.
    """
    for number in range(1, count + 1):
        conv = Conv2d(
            channels, width, 3, norm=norm, relu=True, norm_after_relu=norm_after_relu, bias=norm_after_relu or None
        )
        module.add_module(f"conv{number}", conv)
        channels = width
    return channels
