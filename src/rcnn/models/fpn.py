"""Feature pyramid network (Lin et al. 2017, figure 3): coarse maps are upsampled and added to finer ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.config import FPNConfig
from rcnn.models.layers import Conv2d


class FPN(nn.Module):
    """{"c2": (B, C2, H/4, W/4), ...} -> {"p2": (B, C, H/4, W/4), ..., "p5", "p6": (B, C, H/64, W/64)}."""

    def __init__(self, *, in_channels: dict[str, int], config: FPNConfig) -> None:
        super().__init__()
        self.numbers = [int(name[1:]) for name in in_channels]  # 2, 3, 4, 5
        for number, channels in zip(self.numbers, in_channels.values(), strict=True):
            self.add_module(f"lateral{number}", _conv(channels, config.channels, 1, config))
            self.add_module(f"output{number}", _conv(config.channels, config.channels, 3, config))
        self.channels = config.channels

    @override
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        pyramid: dict[str, Tensor] = {}
        top_down: Tensor | None = None  # the merged map of the level above
        for number in reversed(self.numbers):
            bottom_up = features[f"c{number}"]
            upsampled = None if top_down is None else F.interpolate(top_down, size=bottom_up.shape[-2:], mode="nearest")
            top_down = getattr(self, f"lateral{number}")(bottom_up, plus=upsampled)
            pyramid[f"p{number}"] = getattr(self, f"output{number}")(top_down)
        last = self.numbers[-1]
        pyramid = dict(reversed(pyramid.items()))
        pyramid[f"p{last + 1}"] = subsampled(pyramid[f"p{last}"])  # for the largest anchors only
        return pyramid


def subsampled(x: Tensor) -> Tensor:
    """Every second row and column of maps (B, C, H, W).

    They are a copy: for convolutions of a strided view, torch.export adds a guard that refuses odd numbers of rows.
    (On torch 2.11, the view itself has one; rcnn drops the guards of exported files.) Pooling has another guard there.
    """
    return x[:, :, ::2, ::2].clone(memory_format=torch.channels_last)


def _conv(in_channels: int, out_channels: int, kernel: int, config: FPNConfig) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, kernel, norm=config.norm, bias=config.conv_bias or None, winograd=True)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv
