"""Weights of the right names and shapes that take no memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector


def blank(config: DetectorConfig) -> dict[str, Tensor]:
    """Tensors of the right names and shapes that take no memory."""
    with torch.device("meta"):
        state = build_detector(config).state_dict()
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
