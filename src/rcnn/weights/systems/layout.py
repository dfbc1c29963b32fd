"""The order of a cell's anchors where they have several sizes: ours has the size outer, MMDetection's and torchvision's
the ratio. The rows of the RPN's outputs follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models import DetectorConfig


def ratio_outer(config: DetectorConfig) -> Tensor:
    """For each anchor of a cell with the ratio outer and the size inner its index in ours, (A,) int64."""
    sizes, ratios = len(config.rpn.anchors.sizes[0]), len(config.rpn.anchors.ratios)
    return torch.arange(sizes * ratios).view(sizes, ratios).T.reshape(-1)


def reorder_anchors(name: str, value: Tensor, order: Tensor) -> Tensor:
    """The rows of the RPN's outputs, one or four for each anchor, taken in another `order` of the anchors (A,)."""
    if name.startswith(("rpn.objectness.", "rpn.deltas.")) and len(order) > 1:
        if torch.equal(order, torch.arange(len(order))):
            return value
        return value.unflatten(0, (len(order), -1))[order].flatten(0, 1)
    return value
