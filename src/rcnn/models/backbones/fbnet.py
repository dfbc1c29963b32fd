"""FBNetV3A (Dai et al. 2021) as D2Go's detectors use it: inverted residual blocks in the trunk and in every head.

The norms of these networks are folded into their convolutions, so the convolutions have biases. The tables below give
all sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import BackboneConfig, FBNetConfig
from rcnn.models.layers import Conv2d

STEM_CHANNELS = 16
TRUNK_CHANNELS = 112


class Block(NamedTuple):
    """One row of a table. A block with stride 1 and equal channels adds its input, unless it upsamples."""

    expansion: int  # channels inside the block, as a multiple of its input channels; 0: no expanding convolution
    out: int  # output channels
    kernel: int  # side of the depthwise kernel
    stride: int = 1
    upsample: bool = False  # upsample by 2 before the depthwise convolution


TRUNK = (
    Block(0, 16, 3),
    Block(4, 32, 5, stride=2), Block(2, 32, 5),
    Block(4, 40, 5, stride=2), *[Block(3, 40, 3)] * 3,
    Block(4, 72, 5, stride=2), *[Block(3, 72, 3)] * 3,
    Block(4, 112, 5), *[Block(4, 112, 5)] * 3,
)  # fmt: skip
RPN = (Block(4, 112, 5),) * 3
BOX = (Block(4, 128, 3, stride=2), Block(6, 128, 3), Block(6, 128, 3), Block(6, 160, 3))
MASK = (
    Block(4, 128, 3, stride=2), Block(6, 128, 3), Block(6, 128, 3),
    Block(6, 128, 3, upsample=True), Block(3, 64, 3, upsample=True),
)  # fmt: skip


class FBNetBlock(nn.Module):
    """(N, C, h, w) -> (N, out, h', w'): 1x1 expansion with ReLU, depthwise k x k, 1x1 projection without ReLU."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        residual: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.residual, self.upsample = residual, upsample
        # the first block of the trunk does not expand
        self.pw = Conv2d(in_channels, mid_channels, 1, relu=True) if mid_channels else None
        wide = mid_channels or in_channels
        self.dw = Conv2d(wide, wide, kernel, stride=stride, groups=wide)
        self.pwl = Conv2d(wide, out_channels, 1)
        # without norms, the initial weights must keep the variance, and the residual branch must start small
        for conv in (self.dw, self.pwl):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="linear")
        if self.pw is not None:
            nn.init.kaiming_normal_(self.pw.weight, mode="fan_in", nonlinearity="relu")
        if residual:
            nn.init.kaiming_normal_(self.pwl.weight, a=15**0.5)  # gain sqrt(2 / (1 + 15))

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = x if self.pw is None else self.pw(x)
        if self.upsample:
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        y = self.pwl(self.dw(y))
        return x + y if self.residual else y


def width_of(config: BackboneConfig) -> float:
    """The width multiplier of the backbone of `config`, which the heads follow; 1 for other backbones."""
    return config.width if isinstance(config, FBNetConfig) else 1.0


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest multiple of 8 (D2Go's rule)."""
    return max(8, int(channels * width + 4) // 8 * 8)


def build_blocks(table: tuple[Block, ...], in_channels: int, width: float = 1.0) -> nn.Sequential:
    """The blocks of `table` as a sequence; `in_channels` is the number of input channels at width 1."""
    blocks = []
    in_channels = scaled(in_channels, width)
    for row in table:
        out = scaled(row.out, width)
        residual = row.stride == 1 and out == in_channels and not row.upsample
        blocks.append(
            FBNetBlock(
                in_channels,
                row.expansion * in_channels,
                out,
                kernel=row.kernel,
                stride=row.stride,
                residual=residual,
                upsample=row.upsample,
            )
        )
        in_channels = out
    return nn.Sequential(*blocks)


class FBNetTrunk(Backbone):
    """Images (B, 3, H, W) -> {"c4": (B, 112, H/16, W/16)}, sides rounded up."""

    stride = 16

    def __init__(self, config: FBNetConfig) -> None:
        super().__init__()
        self.stem = Conv2d(3, scaled(STEM_CHANNELS, config.width), 3, stride=2, relu=True)
        self.blocks = build_blocks(TRUNK, STEM_CHANNELS, config.width)
        self.channels = {"c4": scaled(TRUNK_CHANNELS, config.width)}
        self.strides = {"c4": self.stride}
        if config.frozen_blocks:
            self.stem.requires_grad_(False)  # the frozen blocks were trained for the outputs of this stem
            self.blocks[: config.frozen_blocks].requires_grad_(False)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c4": self.blocks(self.stem(x))}


class RegionBlocks(nn.Sequential):
    """Blocks for regions: (N, 112, s, s) -> (N, channels, s', s'), or (N, channels), the mean, if `pooled`."""

    def __init__(self, table: tuple[Block, ...], *, width: float, pooled: bool) -> None:
        super().__init__(*build_blocks(table, TRUNK_CHANNELS, width))
        self.channels = scaled(table[-1].out, width)
        self.pooled = pooled

    @override
    def forward(self, input: Tensor, valid: Tensor | None = None) -> Tensor:
        x = super().forward(input)  # the norms are folded, so padded regions have no effect on the others
        return x.mean((2, 3)) if self.pooled else x


def rpn_blocks(in_channels: int) -> nn.Sequential:
    """The layers before the two outputs of the RPN: (B, C, H, W) -> (B, C, H, W)."""
    return build_blocks(RPN, TRUNK_CHANNELS, in_channels / TRUNK_CHANNELS)


def box_blocks(width: float) -> RegionBlocks:
    """The box head's features: regions (N, 112, 6, 6) -> (N, 160), averaged over the region."""
    return RegionBlocks(BOX, width=width, pooled=True)


def mask_blocks(width: float) -> RegionBlocks:
    """The features of the mask head and the keypoint head: regions (N, 112, 14, 14) -> (N, 64, 28, 28).

    The maps in between are 7 x 7.
    """
    return RegionBlocks(MASK, width=width, pooled=False)


def keypoint_logits(width: float, keypoints: int) -> FBNetBlock:
    """The last block of the keypoint head, which upsamples the map by 2: (N, 64, 28, 28) -> (N, J, 56, 56)."""
    channels = scaled(MASK[-1].out, width)
    return FBNetBlock(channels, 3 * channels, keypoints, kernel=3, upsample=True)
