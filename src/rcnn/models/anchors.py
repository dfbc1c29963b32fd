"""Anchors of all levels (Ren et al. 2015, section 3.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import AnchorConfig
from rcnn.ops.anchors import cell_anchors, grid_anchors


class AnchorGenerator(nn.Module):
    """Feature maps -> the anchors at each cell of each level; no weights."""

    def __init__(self, *, config: AnchorConfig, strides: dict[str, int], rules: BoxRules = HALF_OPEN) -> None:
        super().__init__()
        self.config, self.strides = config, strides
        self.per_cell = len(config.sizes[0]) * len(config.ratios)
        for (name, stride), sizes in zip(strides.items(), config.sizes, strict=True):
            # not persistent: derived from the config
            self.register_buffer(f"cell_{name}", rules.anchors(self.cell(sizes, stride)), persistent=False)

    def cell(self, sizes: tuple[float, ...], stride: int) -> Tensor:
        """The anchors (A, 4) of one cell, xyxy pixels around the origin."""
        return cell_anchors(sizes, self.config.ratios)

    def steps(self, name: str, features: dict[str, Tensor]) -> tuple[float, float]:
        """Pixels between neighbouring anchors of level `name`, (down, across)."""
        return self.strides[name], self.strides[name]

    @override
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anchors (H * W * A, 4) of each level, xyxy pixels of the input, in the order y, x, anchor."""
        anchors: dict[str, Tensor] = {}
        for name in self.strides:
            height, width = features[name].shape[2:]
            cell: Tensor = torch.as_tensor(getattr(self, f"cell_{name}"))
            anchors[name] = grid_anchors(cell, (height, width), self.steps(name, features), self.config.offset)
        return anchors
