"""The running average of a detector's weights, which often measures better than any single step's."""

from __future__ import annotations

import copy

import torch

from rcnn.models import Detector


class Average:
    """A copy of a detector that follows it (Polyak and Juditsky 1992), exponentially: late steps weigh most."""

    def __init__(self, detector: Detector, decay: float) -> None:
        """`decay` in (0, 1): the part of the average that a step leaves as it is, once there are many steps."""
        self.detector = copy.deepcopy(detector).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, detector: Detector, step: int) -> None:
        """Move towards `detector` after `step` (from 0): in the first steps further, since there is little to keep.

        Statistics of norms are averaged with the weights; counters are taken as they are.
        """
        part = 1 - min(self.decay, (1 + step) / (10 + step))
        own, new = self.detector.state_dict(), detector.state_dict()
        smooth = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in smooth], [new[name] for name in smooth], part)
        for name in own.keys() - set(smooth):
            own[name].copy_(new[name])
