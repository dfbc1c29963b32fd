"""What all backbones have in common: maps with names, channels and strides, and parts that stay as they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from typing_extensions import override


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> {"c2": (B, C2, H/4, W/4), ...}, or {"p2": ...} from one that is a pyramid itself."""

    channels: dict[str, int]  # of each map, from the finest on
    strides: dict[str, int]  # pixels of the image from one cell to the next
    frozen: tuple[nn.Module, ...] = ()

    def freeze(self, parts: Iterable[nn.Module]) -> None:
        """Train neither weights nor norms of `parts`: batch norms in them use their stored statistics from now on."""
        self.frozen = tuple(parts)
        for part in self.frozen:
            part.requires_grad_(False)
        self.train(self.training)

    @override
    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, but for what is frozen, which stays in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self
