"""MobileNet (Howard et al. 2017, table 1), with frozen batch norms and ReLU6, as pytorch-faster-rcnn uses it.

The first twelve layers, to stride 16, are the backbone; the last two, without their stride, are the box head.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import MobileNetV1Config
from rcnn.models.layers import FrozenBatchNorm2d

STEM = 32  # channels
# output channels and stride of the depthwise separable layers
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1))
HEAD = (1024, 1024)  # output channels of the layers of the box head


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded down, at least 8."""
    return max(int(channels * width), 8)


class Layer(nn.Sequential):
    """Convolution, frozen batch norm, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            FrozenBatchNorm2d(out_channels),
            nn.ReLU6(inplace=True),
        )


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise 1x1 convolution (figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = Layer(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        self.pointwise = Layer(in_channels, out_channels, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class MobileNetV1(Backbone):
    """Images (B, 3, H, W) -> {"c4": (B, 512, H/16, W/16)}."""

    def __init__(self, config: MobileNetV1Config) -> None:
        super().__init__()
        channels = scaled(STEM, config.width)
        layers: list[nn.Module] = [Layer(3, channels, 3, stride=2)]
        for out, stride in BLOCKS:
            layers.append(Separable(channels, scaled(out, config.width), stride))
            channels = scaled(out, config.width)
        self.layers = nn.Sequential(*layers)
        self.channels, self.strides = {"c4": channels}, {"c4": 16}
        self.freeze(layers[: config.frozen_layers])

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c4": self.layers(x)}


class RegionMobileNet(nn.Module):
    """The last two layers: regions (N, 512, s, s) -> (N, 1024, s, s); channels are multiplied by the width."""

    def __init__(self, width: float) -> None:
        super().__init__()
        first, second = (scaled(channels, width) for channels in HEAD)
        self.layers = nn.Sequential(Separable(scaled(BLOCKS[-1][0], width), first), Separable(first, second))
        self.channels = second

    @override
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.layers(x)
