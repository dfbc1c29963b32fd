"""Exponential moving average (EMA) of a detector's weights, which often scores higher than the last weights."""

from __future__ import annotations

import copy

import torch

from rcnn.models import Detector
from rcnn.training.sharding import local


class EMA:
    """A copy of a detector with the moving average of its weights (Polyak and Juditsky 1992)."""

    def __init__(self, detector: Detector, decay: float) -> None:
        """`decay` in (0, 1): the fraction of the average that each step keeps, after the first steps."""
        self.detector = copy.deepcopy(detector).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, detector: Detector, step: int) -> None:
        """Move towards `detector` after `step` (counted from 0); the decay is smaller in the first steps.

        Weights and batch-norm statistics are averaged; integers (counters) are copied.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        average, current = self.detector.state_dict(), detector.state_dict()
        floats = [name for name, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [local(average[name]) for name in floats], [local(current[name]) for name in floats], weight
        )
        for name in average.keys() - set(floats):
            average[name].copy_(current[name])
