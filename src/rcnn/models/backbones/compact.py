"""A small residual network for training from scratch in minutes: two basic blocks per stage (He et al. 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import CompactConfig
from rcnn.models.layers import Conv2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with a projection where the shape changes (He et al. 2016, figure 5)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, config: CompactConfig) -> None:
        super().__init__()
        norm, eps = config.norm, config.norm_eps
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = Conv2d(in_channels, out_channels, 1, stride=stride, norm=norm, eps=eps) if changes else None
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride=stride, norm=norm, eps=eps, relu=True)
        self.conv2 = Conv2d(out_channels, out_channels, 3, norm=norm, eps=eps)

    @override
    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.conv2(self.conv1(x)) + shortcut)


class CompactNet(Backbone):
    """Images (B, 3, H, W) -> {"c2": (B, widths[0], H/4, W/4), ..., "c5": (B, widths[3], H/32, W/32)}.

    With res5_stride=1, c5 has a stride of 16.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.stem = Conv2d(3, config.stem_width, 3, stride=2, norm=config.norm, eps=config.norm_eps, relu=True)
        channels = config.stem_width
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        total = 2
        for number, width in enumerate(config.widths, start=2):
            stride = config.res5_stride if number == 5 else 2
            stage = nn.Sequential(
                BasicBlock(channels, width, stride=stride, config=config),
                BasicBlock(width, width, stride=1, config=config),
            )
            self.add_module(f"res{number}", stage)
            channels, total = width, total * stride
            self.channels[f"c{number}"], self.strides[f"c{number}"] = width, total

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        features = {}
        for name in self.channels:
            x = getattr(self, name.replace("c", "res"))(x)
            features[name] = x
        return features
