"""Plain vision transformer with window attention, and a pyramid built from its last map (ViTDet: Li et al. 2022).

Letters: B images, C channels of a token, h x w tokens of an image.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.backbones.timm import create
from rcnn.models.config import ViTConfig
from rcnn.models.fpn import subsampled
from rcnn.models.layers import ChannelNorm, Conv2d

PATCH = 16  # side of the patch that becomes one token, pixels; the stride of p4
NORM_EPS = 1e-6  # of the pyramid's layer norms
PARTS = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")  # of a block


class ViT(Backbone):
    """Images (B, 3, H, W) -> {"p2": (B, C, H/4, W/4), ..., "p5", "p6": (B, C, H/64, W/64)}."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        net = build_plain(config)
        self.patches = net.patch_embed.proj  # (B, 3, H, W) -> (B, C, h, w)
        side = config.image_size // PATCH
        positions = net.pos_embed.detach()[:, -(side**2) :]  # the class token, which is not used, comes first
        self.positions = nn.Parameter(positions.unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous())
        self.first_norm, self.blocks = net.norm_pre, net.blocks
        depth = len(self.blocks)
        if config.window and not 0 <= config.global_blocks <= depth:
            raise ValueError(
                f"backbone.global_blocks is {config.global_blocks}; expected 0 to {depth}, the number of blocks of "
                f"{config.name}"
            )
        global_attention = {depth * (n + 1) // config.global_blocks - 1 for n in range(config.global_blocks)}
        self.windows = [config.window * (number not in global_attention) for number in range(depth)]
        self.pyramid = nn.ModuleDict(
            {f"p{number}": Level(net.embed_dim, config.channels, 2.0 ** (4 - number)) for number in (2, 3, 4, 5)}
        )
        self.strides = {f"p{number}": 2**number for number in (2, 3, 4, 5, 6)}
        self.channels = dict.fromkeys(self.strides, config.channels)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[2:]
        x = self.patches(F.pad(x, (0, -width % PATCH, 0, -height % PATCH)))  # (B, C, h, w)
        x = x + resample(self.positions, (x.shape[2], x.shape[3]))
        x = self.first_norm(x.permute(0, 2, 3, 1))  # (B, h, w, C)
        for block, window in zip(self.blocks, self.windows, strict=True):
            x = x + block.drop_path1(block.ls1(attend(block.attn, block.norm1(x), window)))
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        x = x.permute(0, 3, 1, 2)
        pyramid = {name: level(x) for name, level in self.pyramid.items()}
        pyramid["p6"] = subsampled(pyramid["p5"])  # for the largest anchors only
        return pyramid


class Level(nn.Module):
    """One level of the simple pyramid: tokens (B, C, h, w) -> (B, channels, scale * h, scale * w), section 3."""

    def __init__(self, tokens: int, channels: int, scale: float) -> None:
        super().__init__()
        width = tokens
        self.resize = nn.Sequential()
        while scale > 1:
            if width < tokens:
                self.resize.extend([ChannelNorm(width, eps=NORM_EPS), nn.GELU()])
            self.resize.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
            width, scale = width // 2, scale / 2
        if scale < 1:
            self.resize.append(nn.MaxPool2d(2))
        self.lateral = Conv2d(width, channels, 1, norm="ln", eps=NORM_EPS)
        self.output = Conv2d(channels, channels, 3, norm="ln", eps=NORM_EPS)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lateral(self.resize(x)))


def attend(attention: nn.Module, x: Tensor, window: int) -> Tensor:
    """Self-attention of tokens (B, h, w, C) within windows of `window` x `window` tokens; 0: over all tokens.

    Windows at the right and bottom are padded with zeros, and the padding takes part in the attention (as in ViTDet).
    """
    height, width = x.shape[1:3]
    if window == 0:
        return attention(x.flatten(1, 2)).unflatten(1, (height, width))
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)  # (B, rows, columns, s, s, C)
    batch, rows, columns = x.shape[:3]
    x = attention(x.flatten(3, 4).flatten(0, 2)).view(batch, rows, columns, window, window, -1)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


def resample(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Position embeddings (1, C, n, n) for a map of `size` (height, width): bicubic, corners not aligned."""
    if positions.shape[2:] == size:
        return positions
    return F.interpolate(positions.float(), size=size, mode="bicubic", align_corners=False).to(positions.dtype)


def build_plain(config: ViTConfig) -> Any:
    """timm's transformer of `config`, with position embeddings of its size. Raises ValueError for another network."""
    if config.image_size % PATCH:
        raise ValueError(f"backbone.image_size is {config.image_size}; expected a multiple of {PATCH}")
    try:
        net = create(
            config,
            pretrained=config.pretrained,
            img_size=config.image_size,
            num_classes=0,
            drop_path_rate=config.drop_path,
        )
    except TypeError as error:
        raise ValueError(
            f"backbone.name={config.name!r} is not a plain ViT ({error}); choose one of timm's vit_*"
        ) from error
    plain = importlib.import_module("timm.models.vision_transformer").VisionTransformer
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if not isinstance(net, plain) or not all(hasattr(block, part) for block in net.blocks for part in PARTS):
        raise ValueError(
            f"backbone.name={config.name!r} is not a plain ViT; choose one of timm's vit_*, or set backbone.kind=timm"
        )
    if patch != (PATCH, PATCH) or net.pos_embed is None:
        raise ValueError(
            f"backbone.name={config.name!r} has patches of {patch} and {'no' if net.pos_embed is None else 'absolute'} "
            f"position embeddings; expected patches of {PATCH} pixels and absolute position embeddings, as in "
            "vit_base_patch16_224"
        )
    return net
