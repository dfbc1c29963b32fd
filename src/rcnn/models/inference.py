"""Preparation of a detector for prediction: folded norms, channels_last layout, chosen precision."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Literal

import torch
from torch import nn

from rcnn.models.detector import Detector
from rcnn.models.layers import AffineBatchNorm2d, Conv2d, FrozenBatchNorm2d, affine_of

Precision = Literal["float32", "float16", "bfloat16"]


def prepare_for_inference(detector: Detector, precision: Precision = "float32", *, keep: bool = True) -> Detector:
    """A copy that computes the same detections faster; it cannot be trained.

    With float16 or bfloat16, the detections are approximately the same. Only weights and feature maps have that
    precision; the outputs of the last layers, boxes and scores stay float32.
    `keep=False` changes the detector itself, which takes less time and memory.
    """
    detector = (copy.deepcopy(detector) if keep else detector).eval().requires_grad_(False)
    dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[precision]
    for module in detector.modules():
        if isinstance(module, Conv2d):
            module.fold_norm()
    fold_pairs(detector)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue  # a norm that could not be folded: its statistics stay float32
        for name, weight in module.named_parameters(recurse=False):
            layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
            setattr(module, name, nn.Parameter(weight.to(dtype, memory_format=layout), requires_grad=False))
    for parts in (detector.backbone, *(layer for layer in detector.modules() if isinstance(layer, Conv2d))):
        for module in parts.modules():  # window masks, frozen statistics; not the anchors, which stay float32
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.to(dtype) if buffer.is_floating_point() else buffer)
    return detector


@torch.no_grad()
def fold_pairs(network: nn.Module) -> None:
    """Fold each batch norm into the convolution right before it, in each `nn.Sequential` (torchvision's backbones).

    Left as they are: a convolution that several modules share, subclasses with a `forward` of their own, and modules
    with hooks, e.g. those of `torch.nn.utils.weight_norm`, which computes the weight at each call.
    """
    uses = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for layers in list(network.modules()):
        if not isinstance(layers, nn.Sequential) or type(layers).forward is not nn.Sequential.forward:
            continue
        for conv, norm in zip(list(layers), list(layers)[1:], strict=False):
            if type(conv) is nn.Conv2d and uses[conv] == 1 and _can_fold(norm) and not _hooked(conv, norm):
                scale, shift = affine_of(norm)
                bias = shift if conv.bias is None else shift + conv.bias * scale
                conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
                conv.bias = nn.Parameter(bias, requires_grad=False)
                attribute = next(name for name, layer in layers.named_children() if layer is norm)
                setattr(layers, attribute, nn.Identity())


def _hooked(*modules: nn.Module) -> bool:
    """Whether one of the modules has hooks, which see or change its inputs, outputs or weights."""
    return any(module._forward_pre_hooks or module._forward_hooks for module in modules)


def _can_fold(norm: nn.Module) -> bool:
    """Whether `norm` is one of the known batch norms; a subclass of the user may compute something else."""
    known = type(norm) in (nn.BatchNorm2d, FrozenBatchNorm2d, AffineBatchNorm2d)
    known = known or type(norm).__name__ == "FrozenBatchNorm2d"  # that of torchvision or another library
    return known and getattr(norm, "weight", None) is not None and getattr(norm, "running_mean", None) is not None
