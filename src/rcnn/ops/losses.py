"""Losses, element by element; the caller sums and divides."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_l1(input: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber loss over `beta` (Girshick 2015, equation 3): square below a difference of beta, then linear; 0 is L1."""
    difference = (input.float() - target.float()).abs()
    if beta < 1e-5:
        return difference  # the square's gradient would be 0 / 0 there
    return torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)
