"""`rcnn::decode_and_clip` on CUDA: deltas and anchors are gathered, decoded and clipped in one pass.

Letters: B images, A anchors, k chosen anchors per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # boxes of a program


def decode_and_clip(
    deltas: Tensor, anchors: Tensor, index: Tensor, sizes: Tensor, weights: Sequence[float], clamp: float
) -> Tensor:
    """Boxes (B, k, 4) float32 of the anchors in `index` (B, k); see `rcnn.ops.decode_and_clip`."""
    batch, chosen = index.shape
    boxes = torch.empty((batch, chosen, 4), dtype=torch.float32, device=deltas.device)
    if boxes.numel():
        _decode_kernel[(batch, triton.cdiv(chosen, BLOCK))](
            deltas.contiguous(),
            anchors.float().contiguous(),
            index.contiguous(),
            sizes.float().contiguous(),
            boxes,
            deltas.shape[1],
            chosen,
            *(float(weight) for weight in weights),
            clamp,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )
    return boxes


@triton.jit
def _decode_kernel(
    deltas: tl.tensor,  # (B, A, 4)
    anchors: tl.tensor,  # (A, 4) float32
    index: tl.tensor,  # (B, k) int64
    sizes: tl.tensor,  # (B, 2) float32, height and width
    boxes: tl.tensor,  # (B, k, 4) float32, written
    number: tl.tensor,
    chosen: tl.tensor,
    x_weight: tl.tensor,
    y_weight: tl.tensor,
    width_weight: tl.tensor,
    height_weight: tl.tensor,
    clamp: tl.tensor,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exist = column < chosen
    anchor = tl.load(index + image * chosen + column, mask=exist, other=0)
    x1 = tl.load(anchors + anchor * 4, mask=exist, other=0.0)
    y1 = tl.load(anchors + anchor * 4 + 1, mask=exist, other=0.0)
    width = tl.load(anchors + anchor * 4 + 2, mask=exist, other=0.0) - x1
    height = tl.load(anchors + anchor * 4 + 3, mask=exist, other=0.0) - y1
    delta = deltas + (image * number + anchor) * 4
    dx = tl.div_rn(tl.load(delta, mask=exist, other=0.0).to(tl.float32), x_weight)
    dy = tl.div_rn(tl.load(delta + 1, mask=exist, other=0.0).to(tl.float32), y_weight)
    dw = tl.div_rn(tl.load(delta + 2, mask=exist, other=0.0).to(tl.float32), width_weight)
    dh = tl.div_rn(tl.load(delta + 3, mask=exist, other=0.0).to(tl.float32), height_weight)
    x = dx * width + (x1 + 0.5 * width)
    y = dy * height + (y1 + 0.5 * height)
    # NaN stays NaN, as in torch: the RPN excludes such boxes
    half_width = 0.5 * (tl.exp(tl.minimum(dw, clamp, propagate_nan=tl.PropagateNan.ALL)) * width)
    half_height = 0.5 * (tl.exp(tl.minimum(dh, clamp, propagate_nan=tl.PropagateNan.ALL)) * height)
    bottom = tl.load(sizes + image * 2)
    right = tl.load(sizes + image * 2 + 1)
    box = boxes + (image * chosen + column) * 4
    tl.store(box, _clip(x - half_width, right), mask=exist)
    tl.store(box + 1, _clip(y - half_height, bottom), mask=exist)
    tl.store(box + 2, _clip(x + half_width, right), mask=exist)
    tl.store(box + 3, _clip(y + half_height, bottom), mask=exist)


@triton.jit
def _clip(value: tl.tensor, limit: tl.tensor):
    """`value` within [0, limit]."""
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, limit, propagate_nan=tl.PropagateNan.ALL)
