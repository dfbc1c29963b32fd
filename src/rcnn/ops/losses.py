"""Element-wise losses; the caller sums and divides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.precision import at_least_float32


def smooth_l1(input: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber loss over `beta` (Girshick 2015, equation 3): square below a difference of beta, then linear; 0 is L1."""
    difference = (at_least_float32(input) - at_least_float32(target)).abs()
    if beta < 1e-5:
        return difference  # the gradient of the square would be 0 / 0
    return torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Cross-entropy (N,) of logits (N, K) and labels (N,), times (1 - p)^gamma, p the probability of the label.

    Focal loss: well-classified examples get a low weight (Lin et al. 2017b, equation 4, there for a sigmoid).
    With gamma 0 it is cross-entropy.
    """
    loss = F.cross_entropy(at_least_float32(logits), labels, reduction="none")
    # -expm1 instead of 1 - exp: where p rounds to 1, the gradient of the power is 0 * infinity for gamma < 1
    return (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny) ** gamma * loss
