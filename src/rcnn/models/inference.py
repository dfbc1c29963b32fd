"""A detector made ready for prediction: norms folded, channels last, in the precision asked for."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

from rcnn.models.detector import Detector
from rcnn.models.layers import Conv2d

Precision = Literal["float32", "bfloat16"]


def prepare_for_inference(detector: Detector, precision: Precision = "float32") -> Detector:
    """A copy that computes the same detections (in bfloat16 nearly so) faster; it cannot be trained.

    Boxes, scores and all that follows the last layers stay float32: only weights and feature maps change precision.
    """
    detector = copy.deepcopy(detector).eval().requires_grad_(False)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    for module in detector.modules():
        if isinstance(module, Conv2d):
            module.fold_norm()
        for name, weight in module.named_parameters(recurse=False):
            layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
            setattr(module, name, nn.Parameter(weight.to(dtype, memory_format=layout), requires_grad=False))
    return detector
