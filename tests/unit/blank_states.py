"""Weights of the right names and shapes that take no memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.weights.systems.converted import expected_state


def blank(config: DetectorConfig) -> dict[str, Tensor]:
    """Tensors of the right names and shapes that take no memory."""
    expected = expected_state(config)
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in expected.items()}
