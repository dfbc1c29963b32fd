"""Random boxes for tests of ops."""

from __future__ import annotations

import torch
from torch import Tensor


def random_boxes(*shape: int, seed: int, extent: float = 100.0, smallest: float = 1.0) -> Tensor:
    """Boxes (*shape, 4) float32 xyxy, corners within `extent` pixels, sides from `smallest` up to half of it."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * extent
    side = smallest + torch.rand(*shape, 2, generator=generator) * (extent / 2 - smallest)
    return torch.cat([corner, corner + side], -1)
