"""Base class of the backbones: named feature maps with channels and strides, and parts that are not trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from typing_extensions import override


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> {"c2": (B, C2, H/4, W/4), ...}, or {"p2": ...} if the backbone builds its own pyramid."""

    channels: dict[str, int]  # of each map, finest first
    strides: dict[str, int]  # pixels of the image per cell
    frozen: tuple[nn.Module, ...] = ()

    def freeze(self, parts: Iterable[nn.Module]) -> None:
        """Do not train the weights of `parts` from now on; their batch norms use the stored statistics."""
        self.frozen = tuple(parts)
        for part in self.frozen:
            part.requires_grad_(False)
        self.train(self.training)

    @override
    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, except that frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self
