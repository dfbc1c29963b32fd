"""Deltas and anchors -> boxes, decoded and clipped to their images, as the op `rcnn::decode_and_clip`.

On CUDA, one kernel replaces a dozen small ones per pyramid level. Letters: B images, A anchors, k selected anchors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.boxes import clip_boxes, gather_boxes
from rcnn.ops.deltas import decode_deltas
from rcnn.ops.opaque import opaque_op


@opaque_op
def decode_and_clip(
    deltas: Tensor, anchors: Tensor, index: Tensor, sizes: Tensor, weights: Sequence[float], clamp: float
) -> Tensor:
    """Boxes (B, k, 4) float32 xyxy pixels of the anchors in the rows `index`, clipped to their images. No gradient.

    Args:
        deltas: (B, A, 4) floating point, dx dy dw dh; computed in float32.
        anchors: (A, 4) float32 xyxy pixels.
        index: (B, k) int64 in [0, A).
        sizes: (B, 2), (height, width) of the images in the same pixels.
        weights: 4 numbers that the deltas are divided by.
        clamp: upper limit of dw and dh after the division.
    """
    if kernels.usable(deltas):
        from rcnn.ops.kernels import decode_and_clip as kernel

        return kernel.decode_and_clip(deltas, anchors, index, sizes, weights, clamp)
    boxes = decode_deltas(gather_boxes(deltas, index).float(), anchors[index].float(), weights, clamp)
    return clip_boxes(boxes, sizes)


@decode_and_clip.register_fake
def _(deltas: Tensor, anchors: Tensor, index: Tensor, sizes: Tensor, weights: Sequence[float], clamp: float) -> Tensor:
    return deltas.new_empty((*index.shape, 4), dtype=torch.float32)
