"""Values of the class of each region, from the values of all classes.

Letters: B images, R regions, K classes.
"""

from __future__ import annotations

from torch import Tensor


def gather_classes(values: Tensor, labels: Tensor) -> Tensor:
    """The values (B, R, ...) of each region's class `labels` (B, R) int64, from `values` (B, R, K, ...).

    Background regions have the label K. They get the background's values if `values` has them, (B, R, K + 1, ...), else
    those of class K - 1, which are not used. With `values` (B, R, 1, ...), all classes have the same.
    """
    index = labels.clamp(max=values.shape[2] - 1)[(..., *[None] * (values.ndim - 2))]  # (B, R, 1, ...)
    return values.gather(2, index.expand(-1, -1, 1, *values.shape[3:]))[:, :, 0]
