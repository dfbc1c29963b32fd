"""Number of parameters and FLOPs of a detector, counted on meta tensors, without computing anything."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from rcnn.models.build import build_detector
from rcnn.models.config import DetectorConfig
from rcnn.models.detector import Detector
from rcnn.structures import ImageBatch


class Cost(NamedTuple):
    """Size and arithmetic of a detector."""

    parameters: int  # weights and biases; statistics and frozen scales of norms are not counted
    flops: int  # of predicting one image at full capacity; one multiply-add counts as two


def cost(config: DetectorConfig, height: int = 800, width: int = 1333) -> Cost:
    """The cost of a detector of `config`, for one image of `height` x `width` pixels before padding.

    The count assumes the maximum number of proposals and detections. Pooling, NMS and pasting are not counted.
    """
    with torch.device("meta"):
        return cost_of(build_detector(config), height, width)


def cost_of(detector: Detector, height: int = 800, width: int = 1333) -> Cost:
    """The cost of a detector on the meta device; see `cost`."""
    divisor = max(1, detector.config.input.divisor)
    shape = [-(-side // divisor) * divisor for side in (height, width)]
    detector.eval()
    with torch.device("meta"):
        images = ImageBatch(
            pixels=torch.empty(1, 3, *shape, dtype=torch.uint8), sizes=torch.empty(1, 2, dtype=torch.int64)
        )
        with FlopCounterMode(display=False) as counter:
            detector.predict(images)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Cost(parameters=parameters, flops=counter.get_total_flops())
