"""Pooled features of regions, each from the level that fits its size (FPN: Lin et al. 2017, equation 1).

Letters: B images, R regions, C channels, s side of the pooled map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import PoolerConfig, Pooling
from rcnn.ops.roi_align import assign_levels, roi_align
from rcnn.ops.roi_pool import roi_pool

CANONICAL_SIZE = 224.0  # side of the regions that are pooled from p4, pixels


class RegionPooler:
    """Maps and regions -> (B, R, C, s, s). models/legacy/pooling.py has the variants of old systems.

    Raises ValueError for a `config.kind` that the class does not pool by.
    """

    kinds: tuple[Pooling, ...] = ("roi_align", "roi_pool")

    def __init__(
        self,
        *,
        config: PoolerConfig,
        strides: dict[str, int],
        rules: BoxRules = HALF_OPEN,
        level_eps_inside: bool = True,
    ) -> None:
        if config.kind not in self.kinds:
            raise ValueError(
                f"{type(self).__name__} does not pool by {config.kind}, only by {' or '.join(self.kinds)}; set "
                "pooler.kind, or use rcnn.models.build.build_pooler, which chooses the class"
            )
        self.config, self.strides, self.rules, self.level_eps_inside = config, strides, rules, level_eps_inside

    def __call__(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Pooled features (B, R, C, s, s) of regions (B, R, 4), xyxy pixels; 0 where not `valid` (B, R)."""
        maps = [features[name] for name in self.strides]
        scales = [1.0 / stride for stride in self.strides.values()]
        return self.pool(maps, self.corners(features, boxes), self.levels(features, boxes, valid), valid, scales)

    def corners(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """The boxes (B, R, 4), xyxy pixels of the input, that are pooled for regions (B, R, 4)."""
        return self.rules.to_inclusive(boxes)

    def levels(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """The index (B, R) of the level that each region is pooled from."""
        numbers = [int(name[1:]) for name in self.strides]
        if len(numbers) == 1:
            return torch.zeros_like(valid, dtype=torch.int64)
        size = self.canonical_size(features)
        return assign_levels(boxes, numbers[0], numbers[-1], size, eps_inside=self.level_eps_inside)

    def canonical_size(self, features: dict[str, Tensor]) -> float:
        """Side of the regions that are pooled from p4, pixels."""
        return CANONICAL_SIZE

    def pool(self, maps: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, scales: list[float]) -> Tensor:
        """RoIAlign (He et al. 2017) or RoIPool (Girshick 2015); `scales` are cells per pixel of the input."""
        config = self.config
        if config.kind == "roi_pool":
            return roi_pool(maps, boxes, levels, valid, scales, config.size)[0]
        return roi_align(maps, boxes, levels, valid, scales, config.size, config.sampling_ratio, config.aligned)
