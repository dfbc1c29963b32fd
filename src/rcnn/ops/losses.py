"""Element-wise losses; the caller sums and divides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.ops.precision import at_least_float32


def smooth_l1(input: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth L1 loss (...) of `input` and `target` (...), in float32 at least (Girshick 2015, equation 3).

    It is quadratic for differences below `beta`, and linear above; with `beta` 0 it is L1.
    """
    difference = (at_least_float32(input) - at_least_float32(target)).abs()
    if beta < 1e-5:
        return difference  # the gradient of the square would be 0 / 0
    return torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Focal loss (N,) of logits (N, K) and labels (N,) int64 (Lin et al. 2017b, equation 4, with softmax).

    This is cross-entropy times (1 - p)^gamma, where p is the probability of the label, so that well-classified examples
    get a low weight. With gamma 0 it is cross-entropy.
    """
    loss = F.cross_entropy(at_least_float32(logits), labels, reduction="none")
    # -expm1 instead of 1 - exp: where p rounds to 1, the gradient of the power is 0 * infinity for gamma < 1
    return (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny) ** gamma * loss
